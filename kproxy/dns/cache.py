"""Answers that were given, as bytes: what is asked again costs a look-up.

Two tables. By question (name in lower case, type): the body of a response, from which a message for
any client is made. By message: a whole datagram but for its id, with the client's letters, flags
and OPT record, and the response to that. The second is in front, and has of each question only so
many spellings that a client that varies them fills nothing.

Whatever depends on a Service is dropped when that changes (`drop`). Questions that a client can
make up without end have a table of their own, so that they displace nothing else: names that do
not exist, types that a name does not have, pods' names, which every address has.
"""

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from kproxy.dns import wire
from kproxy.model import names

MOST_ANSWERS = 32_768
MOST_ABSENCES = 8_192
"""Questions of which the answers are kept: 10,000 Services have 20,000."""
MOST_SPELLINGS = 8
"""Messages of one question that are kept whole."""
MOST_SPELLINGS_OF_ABSENCES = 2
LONGEST_SPELLING = 512
"""Bytes of a message that is kept whole: those of resolvers have fewer, but a client may pad each
message to 4 KiB."""
_MOST_SPELLINGS = MOST_SPELLINGS, MOST_SPELLINGS_OF_ABSENCES
_ADDRESSES = frozenset({wire.Type.A, wire.Type.AAAA})
_STRIDE = 64

Key: TypeAlias = tuple[wire.Name, int]
Tally: TypeAlias = list[int]
"""A counter that is shared by all answers of one sort."""
Whole: TypeAlias = tuple[bytes, Tally]


class Entry:
    """A kept answer: its body, the counter of its sort, and the messages that are kept of it.

    Of one that `has_turns` no message is kept: the next one has another address first.
    """

    __slots__ = ("body", "has_turns", "is_made_up", "spellings", "tags", "tally")

    def __init__(
        self, body: wire.Body, tally: Tally, tags: frozenset[names.NamespacedName]
    ) -> None:
        self.body = body
        self.has_turns = wire.has_turns(body)
        self.is_made_up = False
        """Whether a client can make up such questions without end."""
        self.tally = tally
        self.tags = tags
        self.spellings: list[bytes] = []


class Cache:
    """Kept answers, bounded: the oldest go first. `whole` is for the hot path to look into."""

    def __init__(
        self, most_answers: int = MOST_ANSWERS, most_absences: int = MOST_ABSENCES
    ) -> None:
        self._most = most_answers, most_absences
        self.whole: dict[bytes, Whole] = {}
        self._answers: dict[Key, Entry] = {}
        self._absences: dict[Key, Entry] = {}
        self._by_tag: dict[names.NamespacedName, dict[Key, None]] = {}

    def __len__(self) -> int:
        return len(self._answers) + len(self._absences)

    def get(self, key: Key) -> Entry | None:
        """The kept answer to a question."""
        return self._answers.get(key) or self._absences.get(key)

    def put(self, key: Key, entry: Entry) -> None:
        """Keep an answer."""
        has_answers = entry.body.counts[0] > 0
        entry.is_made_up = (
            entry.body.rcode == wire.Rcode.NXDOMAIN
            or not entry.tags
            or (not has_answers and key[1] not in _ADDRESSES)
        )
        table = self._absences if entry.is_made_up else self._answers
        if len(table) >= self._most[entry.is_made_up]:
            self._forget(next(iter(table)))
        table[key] = entry
        for tag in entry.tags:
            self._by_tag.setdefault(tag, {})[key] = None

    def put_whole(self, entry: Entry, message: bytes, response: bytes) -> None:
        """Keep the response to a message, both without their ids, with its entry.

        Unless the message is longer than any resolver's.
        """
        if len(message) > LONGEST_SPELLING:
            return
        if len(entry.spellings) >= _MOST_SPELLINGS[entry.is_made_up]:
            self.whole.pop(entry.spellings.pop(0), None)
        entry.spellings.append(message)
        self.whole[message] = response, entry.tally

    def drop(self, tags: Iterable[names.NamespacedName]) -> Iterator[None]:
        """Forget what depends on these, in steps."""
        for tag in tags:
            for count, key in enumerate(tuple(self._by_tag.get(tag, ())), 1):
                self._forget(key)
                if count % _STRIDE == 0:
                    yield

    def _forget(self, key: Key) -> None:
        entry = self._answers.pop(key, None) or self._absences.pop(key, None)
        if entry is None:
            return
        for message in entry.spellings:
            self.whole.pop(message, None)
        for tag in entry.tags:
            others = self._by_tag[tag]
            del others[key]
            if not others:
                del self._by_tag[tag]
