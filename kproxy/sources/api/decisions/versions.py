"""Which version of every object has been seen, and whether another one is news.

Within an epoch an object never goes back: an event that was delayed, repeated or overtaken
changes nothing (docs/faults.md K12, K14). An epoch begins with a list that the server was not
asked to be as new as what we have. That list is accepted even if its numbers are lower, as after
etcd was restored (K13).

resourceVersions are compared as numbers, which Kubernetes has allowed since 1.35 (KEP-5504) and
which was so before. One that is no number is not compared: such an event counts as news.
"""

from collections.abc import Set as AbstractSet

from kproxy.model import admission

MAX_DELETED = 100_000
"""Most deletions that are remembered."""


class Versions:
    """The versions of what one list-and-watch knows, by kind and name.

    Deleted objects are remembered until the next watch begins, so that an event from before the
    deletion does not bring one back. Memory: an entry per object, and for each of the last
    `MAX_DELETED` deletions in a watch.
    """

    __slots__ = ("_deleted", "_floor", "_known")

    def __init__(self) -> None:
        self._known: dict[admission.Key, str] = {}
        self._deleted: dict[admission.Key, int] = {}
        self._floor = 0

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, key: admission.Key) -> bool:
        return key in self._known

    def begin_watch(self, version: str) -> None:
        """A watch begins: its server sends only what is newer than `version`."""
        self._floor = _number(version) or 0
        self._deleted.clear()

    def is_current(self, key: admission.Key, version: str) -> bool:
        """Whether an object of a list is no newer than what we have of it."""
        known = self._known.get(key, "")
        if version == known:
            return bool(version)
        number, ours = _number(version), _number(known)
        return number is not None and ours is not None and number < ours

    def is_news(self, key: admission.Key, version: str) -> bool:
        """Whether an object that was added or modified is newer than all we know of it."""
        number = _number(version)
        if number is None:
            return True
        known = _number(self._known.get(key, "")) or 0
        return number > max(known, self._floor, self._deleted.get(key, 0))

    def is_end(self, key: admission.Key, version: str) -> bool:
        """Whether a deletion is not older than what we know of the object.

        It may carry the very version that we have: servers have sent the last state as it was.
        """
        number = _number(version)
        return number is None or number >= (_number(self._known.get(key, "")) or 0)

    def put(self, key: admission.Key, version: str) -> None:
        """The object is there, in this version."""
        self._known[key] = version

    def drop(self, key: admission.Key, version: str = "") -> None:
        """The object is gone; `version` is that of its deletion, "" if it is unknown."""
        self._known.pop(key, None)
        self._deleted[key] = max(_number(version) or 0, self._deleted.pop(key, 0))
        if len(self._deleted) > MAX_DELETED:
            del self._deleted[next(iter(self._deleted))]

    def missing_from(self, seen: AbstractSet[admission.Key]) -> AbstractSet[admission.Key]:
        """The known objects that are not in `seen`."""
        return self._known.keys() - seen


def _number(version: str) -> int | None:
    return int(version) if version.isdecimal() and version.isascii() else None


def newest(one: str, other: str) -> str:
    """The later of two resourceVersions; `other` if they cannot be compared."""
    first, second = _number(one), _number(other)
    return one if first is not None and second is not None and first > second else other


def is_behind(version: str, ours: str) -> bool:
    """Whether a list at `version` is older than one at `ours`."""
    first, second = _number(version), _number(ours)
    return first is not None and second is not None and first < second
