"""wrk and iperf3 in place of our generators."""

from dataclasses import replace
from pathlib import Path

import pytest

from kproxy import errors
from kproxy.bench.lab import rig
from kproxy.bench.load import tools
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
