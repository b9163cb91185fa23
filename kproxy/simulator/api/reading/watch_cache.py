"""What kube-apiserver's watch caches know: a state and recent events of each resource, in memory.

A server that has started anew knows no event from before its start: a watch from an older version
gets 410, whatever etcd still has (`storage/cacher/watch_cache.go`). Compaction is the opposite:
etcd forgets past states, and the events in the watch caches stay.
"""

from collections.abc import Sequence

from kproxy.simulator.store import statuses, storage
from kproxy.simulator.store.resources import Resource


class WatchCache:
    """The watch caches over `objects`.

    With `follows_revision` a cache's version is always the newest that there is. Without it, it
    is the version of the last change to its resource, or of the start if that is newer.
    """

    def __init__(self, objects: storage.Storage, *, follows_revision: bool = True) -> None:
        self.objects = objects
        self._follows_revision = follows_revision
        self._started_at = 0

    def restart(self) -> None:
        """Forget every event, as a server does that has started anew."""
        self._started_at = self.objects.resource_version

    def version(self, resource: Resource) -> int:
        """The version of the state that this cache has of `resource`."""
        if self._follows_revision:
            return self.objects.resource_version
        return max(self._started_at, self.objects.last_change(resource))

    def events_since(self, resource: Resource, version: int) -> Sequence[storage.Event]:
        """The commits after `version`, oldest first. Raises Expired outside the history."""
        if version < self._started_at:
            raise statuses.too_old(version, self._started_at)
        return self.objects.events_since(resource, version)
