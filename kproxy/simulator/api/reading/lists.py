"""Which objects a list answers with: versions, pages and selectors. Pure.

The rules for `resourceVersion`, `resourceVersionMatch`, `limit` and `continue` are those of the API
concepts page and of apiserver's `storage/cacher/delegator.go` and `storage/etcd3/store.go`:

    match         paging    version ""   version "0"   version N
    none          none      newest       any           not older
    none          limit     newest       any           exact (older clients rely on it)
    none          continue  the token's  the token's   400
    Exact         any       422          422           exact
    NotOlderThan  any       422          any           not older
    either        continue  422          422           422

"Any" and "not older" without a limit come from the watch cache, which lags behind etcd; "any" takes
no notice of the limit. The page says 400 where this table says 422: that is what servers answer.
"""

import base64
import binascii
import bisect
import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple

from kproxy.simulator.api.reading import field_selectors, watch_cache
from kproxy.simulator.api.reading import query as parameters
from kproxy.simulator.store import statuses, storage
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.storage import Object

INCONSISTENT = -1
"""The version in a continue token that gives up consistency, after a 410."""

_ENCODING = "meta.k8s.io/v1"


@dataclass(frozen=True, slots=True)
class Options:
    """The query parameters of a list or a watch."""

    selector: field_selectors.Selector
    limit: int = 0
    continue_from: str = ""
    resource_version: str = ""
    version_match: str = ""


class Page(NamedTuple):
    """The items of a list, and the ListMeta that goes with them."""

    items: Sequence[Object]
    metadata: Mapping[str, Any]


def options(resource: Resource, query: Mapping[str, str]) -> Options:
    """The options in a query string. Raises BadRequest, Invalid."""
    limit = parameters.integer(query, "limit")
    parameters.integer(query, "timeoutSeconds")
    match = query.get("resourceVersionMatch", "")
    if match:
        version = query.get("resourceVersion", "")
        _check_match(match, version, is_continued=bool(query.get("continue")))
    return Options(
        field_selectors.parse(
            resource, query.get("labelSelector", ""), query.get("fieldSelector", "")
        ),
        # A limit below nothing is none, as in kube-apiserver.
        max(limit or 0, 0),
        query.get("continue", ""),
        parameters.version(query),
        match,
    )


class Reading(Enum):
    """The semantics of a list's version, in the words of the API concepts page."""

    NEWEST = auto()
    ANY = auto()
    NOT_OLDER = auto()
    EXACT = auto()
    CONTINUED = auto()


def reading(wanted: Options) -> Reading:
    """How the version of a list is to be understood: the table above."""
    if wanted.continue_from:
        return Reading.CONTINUED
    if wanted.resource_version == "":
        return Reading.NEWEST
    if wanted.resource_version == "0":
        return Reading.ANY
    if wanted.version_match == "Exact" or (wanted.limit and not wanted.version_match):
        return Reading.EXACT
    return Reading.NOT_OLDER


def is_cached(wanted: Options) -> bool:
    """Whether the list comes from the watch cache, which may lag behind etcd."""
    how = reading(wanted)
    return how is Reading.ANY or (how is Reading.NOT_OLDER and not wanted.limit)


def page(
    cache: watch_cache.WatchCache,
    resource: Resource,
    namespace: str | None,
    wanted: Options,
    *,
    behind: int = 0,
) -> Page:
    """A list, or a page of it. Raises Expired, BadRequest, and Timeout for a future version.

    What comes from the watch cache is `behind` versions older than what the cache has.
    """
    objects = cache.objects
    start = ""
    match reading(wanted):
        case Reading.CONTINUED:
            version, start = _decode(wanted)
            items = _continued(objects, resource, namespace, version, start)
            version = objects.resource_version if version == INCONSISTENT else version
        case Reading.EXACT:
            version = int(wanted.resource_version)
            _check_reached(version, objects.resource_version)
            items = _at(objects, resource, namespace, version)
        case Reading.NEWEST:
            version, items = objects.resource_version, objects.list(resource, namespace)
        case Reading.NOT_OLDER if wanted.limit:
            version, items = objects.resource_version, objects.list(resource, namespace)
            _check_reached(int(wanted.resource_version), version)
        case _:
            least = int(wanted.resource_version)
            _check_reached(least, cache.version(resource))
            version, items = _cached(cache, resource, namespace, least, behind)
    # A list from the watch cache at any version has no pages: it takes no notice of the limit.
    limit = 0 if reading(wanted) is Reading.ANY else wanted.limit
    return _cut(items, start, limit, wanted.selector, version)


def check_version(cache: watch_cache.WatchCache, resource: Resource, version: str) -> None:
    """For a get: raises Timeout unless the watch cache has reached the requested `version`."""
    if version not in ("", "0"):
        _check_reached(int(version), cache.version(resource))


def _check_reached(asked: int, current: int) -> None:
    if asked > current:
        raise statuses.too_large_resource_version(asked, current)


def _cached(
    cache: watch_cache.WatchCache,
    resource: Resource,
    namespace: str | None,
    least: int,
    behind: int,
) -> tuple[int, Sequence[Object]]:
    """The version and the items that the watch cache has, if it lags, but not before `least`."""
    current = cache.version(resource)
    version = max(current - behind, least, cache.objects.oldest_state(resource))
    if version >= current:
        return current, cache.objects.list(resource, namespace)
    return version, cache.objects.list_at(resource, version, namespace)


def _at(
    objects: storage.Storage, resource: Resource, namespace: str | None, version: int
) -> Sequence[Object]:
    try:
        return objects.list_at(resource, version, namespace)
    except statuses.StatusError as error:
        message = "The resourceVersion for the provided list is too old."
        raise statuses.StatusError(410, "Expired", message) from error


def _continued(
    objects: storage.Storage, resource: Resource, namespace: str | None, version: int, start: str
) -> Sequence[Object]:
    if version == INCONSISTENT:
        return objects.list(resource, namespace)
    _check_reached(version, objects.resource_version)
    try:
        return objects.list_at(resource, version, namespace)
    except statuses.StatusError as error:
        raise expired_token(start) from error


def expired_token(start: str) -> statuses.StatusError:
    """410 for a continue token, with one that goes on from `start` at the newest version."""
    return statuses.continue_expired(encoded_token(INCONSISTENT, start))


def _cut(
    items: Sequence[Object],
    start: str,
    limit: int,
    selector: field_selectors.Selector,
    version: int,
) -> Page:
    if start:
        items = items[bisect.bisect_left(items, start, key=storage.key_of) :]
    if selector:
        items = [item for item in items if selector.matches(item)]
    metadata: dict[str, Any] = {"resourceVersion": str(version)}
    if limit and len(items) > limit:
        metadata["continue"] = encoded_token(version, storage.key_of(items[limit - 1]) + "\0")
        if not selector:
            metadata["remainingItemCount"] = len(items) - limit
        items = items[:limit]
    return Page(items, metadata)


def encoded_token(version: int, start: str) -> str:
    """The continue token of a list at `version` that goes on with the key `start`."""
    token = json.dumps({"v": _ENCODING, "rv": version, "start": start}, separators=(",", ":"))
    return base64.urlsafe_b64encode(token.encode()).rstrip(b"=").decode()


def _decode(wanted: Options) -> tuple[int, str]:
    """The version and the key in a continue token. Raises BadRequest, in kube-apiserver's order."""
    version, start = decoded_token(wanted.continue_from)
    if wanted.resource_version not in ("", "0"):
        raise statuses.bad_request("specifying resource version is not allowed when using continue")
    return version, start


def decoded_token(encoded: str) -> tuple[int, str]:
    """The version and the key in a continue token. Raises BadRequest."""
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        token = json.loads(raw)
        known, version, start = token["v"], token.get("rv", 0), token.get("start", "")
    except (binascii.Error, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        raise _bad_token("continue key is not valid") from None
    if known != _ENCODING:
        raise _bad_token(
            "continue key is not valid: server does not recognize this encoded version"
        )
    if type(version) is not int or not version or version >= 2**63:
        raise _bad_token(
            "continue key is not valid: incorrect encoded start resourceVersion "
            f"(version {_ENCODING})"
        )
    if not isinstance(start, str) or not start:
        raise _bad_token(
            f"continue key is not valid: encoded start key empty (version {_ENCODING})"
        )
    if posixpath.normpath(f"/{start}") != f"/{start}":
        raise _bad_token(f"continue key is not valid: {start}")
    return max(version, INCONSISTENT), start


def _bad_token(reason: str) -> statuses.StatusError:
    return statuses.bad_request(f"invalid continue token: {reason}")


def _check_match(match: str, version: str, *, is_continued: bool) -> None:
    """The rules of apimachinery's `internalversion/validation`. Raises Invalid."""
    field, wrong = "resourceVersionMatch", []
    if not version:
        detail = f"{field} is forbidden unless resourceVersion is provided"
        wrong.append(statuses.forbidden_value(field, detail))
    if is_continued:
        detail = f"{field} is forbidden when continue is provided"
        wrong.append(statuses.forbidden_value(field, detail))
    if match not in ("Exact", "NotOlderThan"):
        wrong.append(statuses.not_supported_value(field, match, ("Exact", "NotOlderThan", "")))
    if match == "Exact" and version == "0":
        detail = f'{field} "exact" is forbidden for resourceVersion "0"'
        wrong.append(statuses.forbidden_value(field, detail))
    if wrong:
        raise invalid(*wrong)


def invalid(*causes: statuses.Cause) -> statuses.StatusError:
    """The error for query parameters of a list or a watch."""
    return statuses.invalid(LIST_OPTIONS, "", causes)


LIST_OPTIONS = Resource("meta.k8s.io", "v1", "ListOptions", "listoptions", "listoptions")
"""Not a resource: what errors about query parameters call their subject."""
