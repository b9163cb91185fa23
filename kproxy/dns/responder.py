"""From a packet to its answer, or to the decision that others must be asked."""

import itertools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import structlog

from kproxy import metrics
from kproxy.dns import cache, wire, zone
from kproxy.dns.forwarding import foreign

_T = wire.Type
_KEPT = (wire.Rcode.NOERROR, wire.Rcode.NXDOMAIN)

_log = structlog.get_logger(__name__)


class Forward(NamedTuple):
    """A question for other servers: as it was asked, or, behind `known`, for `target`."""

    query: wire.Query
    limit: int
    known: zone.Answer | None = None


Outcome: TypeAlias = bytes | Forward | None
"""An answer; a question for others; or nothing, for what must not be answered or cannot be."""


class Responder:
    """Answers what is this server's to answer. `recurses`: others can be asked.

    `answer` finds out what a name has; `kept` are its answers from before. Of several addresses
    another one comes first each time, by the numbers that `turn` gives: 1, 2, 3 if not given.
    """

    def __init__(
        self,
        answer: Callable[[wire.Name, int], zone.Answer | None],
        kept: cache.Cache,
        counters: metrics.DnsCounters,
        *,
        recurses: bool,
        turn: Callable[[], int] | None = None,
    ) -> None:
        self._answer = answer
        self._kept = kept
        self._counters = counters
        self._recurses = recurses
        self._turn = turn or itertools.count().__next__
        self.bugs = 0
        """How many questions got no answer because of an error in this program."""

    def datagram(self, packet: bytes) -> Outcome:
        """What to do about a datagram. The hot path has looked into `Cache.whole` before."""
        return self._guarded(packet, is_datagram=True)

    def message(self, packet: bytes) -> Outcome:
        """What to do about a message of a TCP connection."""
        return self._guarded(packet, is_datagram=False)

    def _guarded(self, packet: bytes, *, is_datagram: bool) -> Outcome:
        """As `_outcome`. A bug leaves one question without an answer; it is logged seldom."""
        try:
            return self._outcome(packet, is_datagram=is_datagram)
        except Exception:
            self.bugs += 1
            if self.bugs & (self.bugs - 1) == 0:  # the 1st, 2nd, 4th, 8th
                _log.exception("internal error: a question got no answer", bugs_so_far=self.bugs)
            return None

    def _outcome(self, packet: bytes, *, is_datagram: bool) -> Outcome:
        if not wire.is_answerable(packet):
            self._counters.dropped += 1
            return None
        try:
            query = wire.read(packet)
        except wire.Malformed as error:
            self._counters.tally("other", error.rcode.name)[0] += 1
            return wire.error(packet, error.rcode)
        limit = query.limit if is_datagram else wire.LARGEST
        refusal = self._refusal(query)
        if refusal is not None:
            return self._short(query, refusal)
        entry = self._kept.get((query.key, query.type))
        if entry is None:
            found = self._answer(query.key, query.type)
            if found is None or (found.target is not None and self._may_ask(query)):
                if not self._may_ask(query):
                    return self._short(query, wire.Rcode.REFUSED)
                return Forward(query, limit, found)
            body = wire.body(query.name, found.rcode, found.sections)
            entry = cache.Entry(body, self._tally(query.type, found.rcode), found.tags)
            is_kept = found.rcode in _KEPT and (found.target is None or not self._recurses)
            if is_kept:
                self._kept.put((query.key, query.type), entry)
        else:
            is_kept = True
        entry.tally[0] += 1
        body = wire.turned(entry.body, self._turn()) if entry.has_turns else entry.body
        made = wire.response(query, body, limit=limit, recurses=self._recurses)
        if is_datagram and is_kept and not entry.has_turns:
            self._kept.put_whole(entry, packet[2:], made[2:])
        return made

    def _refusal(self, query: wire.Query) -> wire.Rcode | None:
        if query.class_ != wire.IN or query.type in {_T.AXFR, _T.IXFR}:
            return wire.Rcode.REFUSED
        # A meta type that is no question; 250 is TSIG's.
        is_meta = query.type == _T.OPT or 128 <= query.type < _T.ANY or query.type == 0
        return wire.Rcode.NOTIMP if is_meta else None

    def _may_ask(self, query: wire.Query) -> bool:
        return self._recurses and query.wants_recursion

    def finish(self, asked: Forward, reply: bytes | None) -> bytes:
        """The answer, once others have replied, or have not.

        Behind a Service's CNAME, their records follow it.
        """
        query, known = asked.query, asked.known
        if reply is None:
            return self._short(query, wire.Rcode.SERVFAIL)
        if known is None:
            made = wire.passed_on(reply, query, limit=asked.limit)
            self._count(query.type, wire.rcode_of(made))
            return made
        try:
            theirs = foreign.read(reply)
        except ValueError:
            return self._short(query, wire.Rcode.SERVFAIL)
        self._count(query.type, theirs.rcode)
        sections = (*known.answers, *theirs.answers), theirs.authority, ()
        body = wire.body(query.name, theirs.rcode, sections, is_authoritative=False)
        return wire.response(query, body, limit=asked.limit, recurses=True)

    def _short(self, query: wire.Query, rcode: wire.Rcode) -> bytes:
        """An answer without records."""
        self._count(query.type, rcode)
        made = wire.body(query.name, rcode, ((), (), ()), is_authoritative=False)
        return wire.response(query, made, recurses=self._recurses)

    def _count(self, type_: int, rcode: int) -> None:
        self._tally(type_, rcode)[0] += 1

    def _tally(self, type_: int, rcode: int) -> cache.Tally:
        """The counter of answers of this sort. Types and codes without a name count as one."""
        name = _T(type_).name if type_ in _COUNTED else "other"
        result = wire.Rcode(rcode).name if rcode in _CODES else "other"
        return self._counters.tally(name, result)


_COUNTED = frozenset(_T) - {_T.OPT, _T.IXFR}
_CODES = frozenset(wire.Rcode)
