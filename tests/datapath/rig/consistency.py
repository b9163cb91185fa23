"""Check every connection after each event that reaches it.

`watch` wraps what the poller, the listeners and the sweep call, in the test's process only: the
data path itself has no hook and pays nothing.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

from kproxy.datapath import poller
from kproxy.datapath.tcp import connection, dial, relay, sweep


@contextlib.contextmanager
def watch() -> Iterator[list[str]]:
    """Check in this block; yields the violations found so far, to which later ones are added.

    An AssertionError raised inside an event would be contained as a bug of one connection.
    """
    found: list[str] = []

    def check(conn: object) -> None:
        if isinstance(conn, connection.Connection):
            try:
                conn.assert_consistent()
            except AssertionError as error:
                found.append(str(error))

    leg_events, dial_events = relay.Leg.on_events, dial.Dial.on_events
    start, visit = dial.Dialer.start, sweep.Sweep.visit
    resume_ready = poller.Poller._resume_ready

    def leg_on_events(leg: relay.Leg, mask: int) -> None:
        conn = leg.conn
        leg_events(leg, mask)
        check(conn)

    def dial_on_events(waiting: dial.Dial, mask: int) -> None:
        conn = waiting.conn
        dial_events(waiting, mask)
        check(conn)

    def start_dials(
        dialer: dial.Dialer, accepted: Sequence[connection.Connection], *, has_read: bool = False
    ) -> None:
        start(dialer, accepted, has_read=has_read)
        for conn in accepted:
            check(conn)

    def visit_one(sweeper: sweep.Sweep, conn: connection.Connection, now: float) -> None:
        visit(sweeper, conn, now)
        check(conn)

    def resume_all(driver: Any) -> None:
        # After the round: during it, directions that are yet to be resumed are in no queue.
        conns = {each.conn for each in driver._ready if isinstance(each, relay.Leg) and each.peer}
        resume_ready(driver)
        for conn in conns:
            check(conn)

    with (
        mock.patch.object(relay.Leg, "on_events", leg_on_events),
        mock.patch.object(dial.Dial, "on_events", dial_on_events),
        mock.patch.object(dial.Dialer, "start", start_dials),
        mock.patch.object(sweep.Sweep, "visit", visit_one),
        mock.patch.object(poller.Poller, "_resume_ready", resume_all),
    ):
        yield found
