"""Which objects a list answers with: versions, pages and selectors. Pure.

The rules for `resourceVersion` and `resourceVersionMatch` are those of the API concepts page
and of apiserver's `storage/cacher` and `storage/etcd3/store.go`.
"""

import base64
import binascii
import bisect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kproxy.simulator import selectors, status, storage
from kproxy.simulator.resources import Resource
from kproxy.simulator.storage import Object

INCONSISTENT = -1
"""The version in a continue token that lets go of consistency, after a 410."""


@dataclass(frozen=True, slots=True)
class Options:
    """The query parameters of a list or a watch."""

    selector: selectors.Selector
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
    version = version_in(query)
    match = query.get("resourceVersionMatch", "")
    if match:
        _check_match(match, version, is_continued=bool(query.get("continue")))
    limit = query.get("limit", "0")
    if not limit.isdigit():
        raise status.bad_request(f'strconv.ParseInt: parsing "{limit}": invalid syntax')
    return Options(
        selectors.parse(resource, query.get("labelSelector", ""), query.get("fieldSelector", "")),
        int(limit),
        query.get("continue", ""),
        version,
        match,
    )


def version_in(query: Mapping[str, str]) -> str:
    """The `resourceVersion` that a query asks for, "" if none. Raises Invalid."""
    version = query.get("resourceVersion", "")
    if version and not version.isdigit():
        raise invalid(status.invalid_value("resourceVersion", version, "must be a number"))
    return version


def page(
    objects: storage.Storage, resource: Resource, namespace: str | None, wanted: Options
) -> Page:
    """A list, or a page of it. Raises Expired, BadRequest, and Timeout for a future version."""
    if wanted.continue_from:
        version, start = _decode(wanted)
        items = _continued(objects, resource, namespace, version, start)
        version = objects.resource_version if version == INCONSISTENT else version
    else:
        version, start = _version(objects, wanted), ""
        items = _at(objects, resource, namespace, version)
    # A list from the watch cache (version 0) ignores the limit, as it always has.
    limit = 0 if wanted.resource_version == "0" else wanted.limit
    return _cut(items, start, limit, wanted.selector, version)


def _version(objects: storage.Storage, wanted: Options) -> int:
    asked = int(wanted.resource_version or 0)
    current = objects.resource_version
    if asked > current:
        raise status.too_large_resource_version(asked, current)
    # Without a match, a limit makes the version exact: the oldest clients rely on it.
    is_exact = wanted.version_match == "Exact" or (wanted.limit and not wanted.version_match)
    return asked if asked and is_exact else current


def _at(
    objects: storage.Storage, resource: Resource, namespace: str | None, version: int
) -> Sequence[Object]:
    try:
        return objects.list_at(resource, version, namespace)
    except status.StatusError as error:
        message = "The resourceVersion for the provided list is too old."
        raise status.StatusError(410, "Expired", message) from error


def _continued(
    objects: storage.Storage, resource: Resource, namespace: str | None, version: int, start: str
) -> Sequence[Object]:
    if version == INCONSISTENT:
        return objects.list(resource, namespace)
    try:
        return objects.list_at(resource, version, namespace)
    except status.StatusError as error:
        raise status.continue_expired(_encode(INCONSISTENT, start)) from error


def _cut(
    items: Sequence[Object], start: str, limit: int, selector: selectors.Selector, version: int
) -> Page:
    if start:
        items = items[bisect.bisect_left(items, start, key=storage.key_of) :]
    if selector:
        items = [item for item in items if selector.matches(item)]
    metadata: dict[str, Any] = {"resourceVersion": str(version)}
    if limit and len(items) > limit:
        metadata["continue"] = _encode(version, storage.key_of(items[limit - 1]) + "\0")
        if not selector:
            metadata["remainingItemCount"] = len(items) - limit
        items = items[:limit]
    return Page(items, metadata)


def _encode(version: int, start: str) -> str:
    token = json.dumps(
        {"v": "meta.k8s.io/v1", "rv": version, "start": start}, separators=(",", ":")
    )
    return base64.urlsafe_b64encode(token.encode()).rstrip(b"=").decode()


def _decode(wanted: Options) -> tuple[int, str]:
    if wanted.resource_version not in ("", "0"):
        raise status.bad_request("specifying resource version is not allowed when using continue")
    encoded = wanted.continue_from
    try:
        token = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
        return int(token["rv"]), str(token["start"])
    except (binascii.Error, KeyError, TypeError, ValueError) as error:
        raise status.bad_request(f"continue key is not valid: {error}") from error


def _check_match(match: str, version: str, *, is_continued: bool) -> None:
    field = "resourceVersionMatch"
    if match not in ("Exact", "NotOlderThan"):
        raise invalid(status.not_supported_value(field, match, ("Exact", "NotOlderThan", "")))
    if is_continued:
        detail = f"{field} is forbidden when continue is provided"
        raise invalid(status.forbidden_value(field, detail))
    if not version:
        detail = f"{field} is forbidden unless resourceVersion is provided"
        raise invalid(status.forbidden_value(field, detail))
    if match == "Exact" and version == "0":
        detail = f'{field} "exact" is forbidden for resourceVersion "0"'
        raise invalid(status.forbidden_value(field, detail))


def invalid(cause: status.Cause) -> status.StatusError:
    """The error for a query parameter of a list or a watch."""
    return status.invalid(LIST_OPTIONS, "", [cause])


LIST_OPTIONS = Resource("meta.k8s.io", "v1", "ListOptions", "listoptions", "listoptions")
"""Not a resource: what errors about query parameters call their subject."""
