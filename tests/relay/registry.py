"""What a case is, the table of all cases, and how one is run and judged."""

import asyncio
import collections.abc
import contextlib
import dataclasses
import enum
from typing import Any, Final

from tests.relay import rig

Body = collections.abc.Callable[[rig.Rig], collections.abc.Awaitable[None]]
Work = collections.abc.Coroutine[Any, Any, object]


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One behaviour asked of a proxy. `body` raises AssertionError with a one-sentence reason."""

    id: str
    priority: str
    title: str
    body: Body
    budget: float
    """Seconds after which a case that has not ended is a failed one."""
    long_budget: float


class Result(enum.StrEnum):
    """`SKIP`: the proxy's side of the bargain is not known, see the sentence."""

    PASS = "pass"
    FAIL = "FAIL"
    SKIP = "skip"


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict and one sentence about what was seen."""

    case: Case
    result: Result
    seen: str


CASES: Final[list[Case]] = []


def case(
    id: str,  # noqa: A002  # the catalogue's own word
    priority: str,
    title: str,
    budget: float = 30.0,
    long_budget: float = 60.0,
) -> collections.abc.Callable[[Body], Body]:
    """Enter a case into the table."""

    def enter(body: Body) -> Body:
        CASES.append(Case(id, priority, title, body, budget, long_budget))
        return body

    return enter


async def run(case: Case, bench: rig.Rig) -> Outcome:
    """Run one case, then sweep: the actors are reset and the proxy must let go of every socket."""
    budget = case.long_budget if bench.long else case.budget
    try:
        try:
            async with asyncio.timeout(budget):
                await bench.begin()
                await case.body(bench)
        finally:
            left = await bench.sweep()
    except BaseExceptionGroup as group:
        return _judge(case, _first(group), budget)
    except (AssertionError, OSError, rig.Unknown) as error:
        return _judge(case, error, budget)
    if left:
        return Outcome(case, Result.FAIL, f"all was well, but {left}")
    return Outcome(case, Result.PASS, "; ".join(dict.fromkeys(bench.notes)) or "as required")


def _judge(case: Case, error: BaseException, budget: float) -> Outcome:
    match error:
        case rig.Unknown():
            return Outcome(case, Result.SKIP, str(error))
        case TimeoutError():
            return Outcome(case, Result.FAIL, f"not over after {budget:g} s: something hangs")
        case AssertionError():
            return Outcome(case, Result.FAIL, str(error) or "an assertion without a sentence")
        case OSError():
            return Outcome(case, Result.FAIL, error.strerror or str(error))
        case _:
            raise error


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the failure that says most: a broken promise before a cut connection."""
    leaves: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            leaves.append(error)
    return next((leaf for leaf in leaves if isinstance(leaf, AssertionError)), leaves[0])


async def together(*works: Work) -> None:
    """Do all at the same time; the first failure ends the others."""
    async with alongside(*works):
        pass


@contextlib.asynccontextmanager
async def alongside(*works: Work) -> collections.abc.AsyncIterator[None]:
    """Do `works` in the background of a block, which ends when they have ended."""
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(work)
        yield
