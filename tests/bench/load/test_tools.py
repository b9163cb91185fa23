"""wrk and iperf3 in place of our generators."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kproxy import errors
from kproxy.bench.lab import network, processes, rig
from kproxy.bench.load import messages, tools
from kproxy.bench.subjects import peers
from tests.bench import test_scenarios

pytestmark = pytest.mark.xdist_group("time")


@pytest.mark.extra
@pytest.mark.parametrize(("name", "scenario"), [("wrk", "connect"), ("iperf3", "bulk")])
def test_a_tool_carries_out_what_it_can(name: str, scenario: str, tmp_path: Path) -> None:
    tool = tools.TOOLS[name]
    try:
        tool.version()
    except errors.KproxyError as error:
        pytest.skip(str(error))
    shown = test_scenarios.Silent()
    # An iperf3 client tells its server to stop once it has sent all, and what is on its way then
    # does not count: with a few MiB that may be everything.
    size = replace(test_scenarios.TINY, bulk_mib=64)
    with rig.start(
        [peers.Direct(), peers.Streams("asyncio")],
        size,
        tmp_path,
        shown,
        [],
        chosen_tools=[tool],
    ) as lab:
        into = test_scenarios.run_in(lab, scenario)
    assert {each.subject for each in into.figures[0].series} == {"direct", "asyncio"}
    assert all((value or 0) > 0 for each in into.figures[0].series for value in each.rounds)


BUSY = {"error": "the server is busy running a test. try again later"}
MEASURED = {
    "end": {
        "sum_received": {"seconds": 0.5, "bytes": 4096},
        "cpu_utilization_percent": {"host_total": 10.0},
    }
}


def test_an_iperf3_server_that_is_not_done_with_the_last_client_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[dict[str, Any]] = [BUSY, BUSY, MEASURED]
    monkeypatch.setattr(processes, "find_program", lambda name, _: name)
    monkeypatch.setattr(tools, "_run", lambda *_: answers.pop(0))
    plan = messages.Plan(kind="bulk", target=network.Address("127.0.0.1", 1), size=4096)

    outcome = tools.TOOLS["iperf3"].run(plan, tmp_path)

    assert (outcome.done, outcome.seconds, answers) == (4096, 0.5, [])
