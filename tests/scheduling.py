"""How pytest-xdist gives tests to its processes, where one of these may die.

Its own scheduler (3.8) gives the test that ended a process to the next one, sixteen times in all.
Besides, a process runs its last test only when it is told that there are no more, which no new
process is told once nothing is left to give away: the run then hangs instead of failing.
"""

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The scheduler for `--dist loadgroup`; pytest-xdist's own for other ways."""
    if config.getvalue("dist") != "loadgroup":
        return None

    from xdist.scheduler import LoadGroupScheduling  # noqa: PLC0415  # absent without pytest-xdist

    class Scheduling(LoadGroupScheduling):  # type: ignore[misc]  # pytest-xdist has no types
        """Counts a test that ended its process as run, and lets every process end."""

        def remove_node(self, node: "WorkerController") -> str | None:
            workload = self.assigned_work.pop(node)
            pending = [
                name for unit in workload.values() for name, done in unit.items() if not done
            ]
            if not pending:
                return None
            crashed: str = pending[0]  # the one that runs is the first that has not ended
            for scope, unit in workload.items():
                left = {name: False for name, done in unit.items() if not done and name != crashed}
                if left:
                    self.workqueue[scope] = left
            for other in self.assigned_work:
                self._reschedule(other)
            return crashed

        def _reschedule(self, node: "WorkerController") -> None:
            super()._reschedule(node)
            if not self.workqueue:
                node.shutdown()  # after what it has been given

    return Scheduling(config, log)
