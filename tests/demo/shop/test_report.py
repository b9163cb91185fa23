"""The counter, and what is said at the end."""

import io

from rich import console

from kproxy.demo.shop import board, report, tally


def said(counted: tally.Tally) -> list[str]:
    """The lines at the end."""
    out = console.Console(file=io.StringIO(), width=100, highlight=False)
    report.show(board.Board(out, counted, 60), counted)
    assert isinstance(out.file, io.StringIO)
    return [" ".join(line.split()) for line in out.file.getvalue().splitlines() if line.strip()]


def test_answers_are_counted_by_service_and_by_node() -> None:
    counted = tally.Tally()
    for pod, node in (
        ("usermgr-a-1", "node-1"),
        ("usermgr-a-2", "node-2"),
        ("ordermgr-b-1", "node-2"),
    ):
        counted.answered(pod, node, 0.25)
    counted.retried("client", "status 502 (node-1)")

    assert said(counted) == [
        "SERVICE ANSWERS BY PODS",
        "ordermgr 1 1",
        "usermgr 2 2",
        "NODE ANSWERS",
        "node-1 1",
        "node-2 2",
        "ATTEMPTS REPEATED BY COUNT",
        "client: status 502 (node-1) 1",
        "0 of 3 requests failed; the slowest took 0.25 s.",
    ]


def test_failures_are_listed_and_counted_beyond_the_list() -> None:
    counted = tally.Tally()
    for number in range(25):
        reasons = ("connection refused (node-1)", "status 502 (node-2)")
        counted.failed_with(tally.Failure(number, "/order/1", reasons))

    lines = said(counted)

    first = "0.0 s GET /order/1: connection refused (node-1); then status 502 (node-2)"
    assert lines[lines.index("25 of 25 requests failed:") + 1] == first
    assert (lines[-1], counted.failed, counted.requests) == ("and 5 more", 25, 25)
