"""The query of each list and watch: `resourceVersion`, `limit`, `continue` and their like. Pure.

What the parameters mean together is in Kubernetes' API concepts ("The resourceVersion parameter",
"Semantics for get and list", "Semantics for watch"). These combinations are used, and no others:

| request | resourceVersion | resourceVersionMatch | limit | the server answers |
|---|---|---|---|---|
| first list | 0 | | 500 | with any version, from its cache if it has one |
| newest list | | | 500 | with the newest state, read from etcd |
| relist | V | | | with V or newer |
| next page | | | 500 | with the version of the first page (`continue` names it) |
| whole list, after a page that expired | as the first page | | | in one piece |
| streaming list | V, or none | NotOlderThan | | with V or newer; with none, the newest state |
| watch | V | | | with what came after V |
| probe, a watch of `PROBE_SECONDS` | V | | | with what came after V |

A `limit` together with a version other than 0 is never sent: without `resourceVersionMatch` a
server takes it for *exactly* that version, which a relist must not ask for.
"""

from kproxy.sources.api.decisions import progress

PAGE_SIZE = 500
"""Items a page. Servers that answer from their cache ignore it and send all at once."""

PROBE_SECONDS = 1
"""How long a probe lasts."""


def first_page(position: progress.Position, *, is_whole: bool = False) -> dict[str, str]:
    """The query of the first page of a list; with `is_whole`, of the list in one piece."""
    version = position.asked_version
    query = {"resourceVersion": version} if version else {}
    if version in ("", "0") and not is_whole:
        query["limit"] = str(PAGE_SIZE)
    return query


def next_page(token: str) -> dict[str, str]:
    """The query of the page that a `continue` token names. The token contains the version."""
    return {"continue": token, "limit": str(PAGE_SIZE)}


def watch(position: progress.Position, seconds: int) -> dict[str, str]:
    """The query of a watch, which the server is to end after `seconds`, or of a streaming list."""
    query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
    if position.asked_version:
        query["resourceVersion"] = position.asked_version
    if position.mode is progress.Mode.STREAM:
        query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    return query


def probe(version: str) -> dict[str, str]:
    """The query of a probe: whether anything came after `version`."""
    return {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(PROBE_SECONDS)}
