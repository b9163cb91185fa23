"""The annotations of a Service that are about its connections; docs/annotations.md lists them."""

from collections.abc import Mapping

from kproxy import settings
from kproxy.model import lifetimes
from kproxy.model.judging import findings

MAX_CONNECTION_AGE = "kproxy.io/max-connection-age"
MAX_CONNECTION_AGE_GRACE = "kproxy.io/max-connection-age-grace"
ON_ENDPOINT_REMOVED = "kproxy.io/on-endpoint-removed"
DRAIN = "kproxy.io/drain"
PROXY_PROTOCOL = "kproxy.io/proxy-protocol"

_DAY = 86400.0
_AGES = settings.Duration(1, 365 * _DAY)
_GRACES = settings.Duration(0, _DAY)
_NO_LIMIT = ("", "none")
_ON_REMOVED = "must be keep, drain, drain:TIME or reset"


def lifetime(annotations: Mapping[str, str], found: findings.Findings) -> lifetimes.Lifetime:
    """How long the connections of a Service may live."""
    age = annotations.get(MAX_CONNECTION_AGE, "").strip()
    grace = _seconds(annotations, MAX_CONNECTION_AGE_GRACE, _GRACES, found)
    action, time = _on_removed(annotations, found)
    drain = _seconds(annotations, DRAIN, _GRACES, found)
    if DRAIN in annotations and action is not lifetimes.OnEndpointRemoved.DRAIN:
        found.notes.append(
            f"annotation {DRAIN} has no effect unless {ON_ENDPOINT_REMOVED} is drain"
        )
    if time is None:
        time = drain
    default = lifetimes.DEFAULT_GRACE_SECONDS
    return lifetimes.Lifetime(
        None if age in _NO_LIMIT else _seconds(annotations, MAX_CONNECTION_AGE, _AGES, found),
        default if grace is None else grace,
        action,
        default if time is None else time,
    )


def proxy_protocol(
    annotations: Mapping[str, str], found: findings.Findings
) -> lifetimes.ProxyProtocol | None:
    """The version of the PROXY headers that backends get; None if they get none."""
    value = annotations.get(PROXY_PROTOCOL, "").strip()
    if value in _NO_LIMIT:
        return None
    try:
        return lifetimes.ProxyProtocol(value)
    except ValueError:
        found.violate(_path(PROXY_PROTOCOL), value, "must be v1, v2 or none")
        return None


def _on_removed(
    annotations: Mapping[str, str], found: findings.Findings
) -> tuple[lifetimes.OnEndpointRemoved, float | None]:
    """The action, and the time that stands beside it, as in `drain:30s`."""
    keep = lifetimes.OnEndpointRemoved.KEEP
    value = annotations.get(ON_ENDPOINT_REMOVED)
    if value is None:
        return keep, None
    word, colon, time = (part.strip() for part in value.partition(":"))
    try:
        action = lifetimes.OnEndpointRemoved(word)
    except ValueError:
        found.violate(_path(ON_ENDPOINT_REMOVED), value, _ON_REMOVED)
        return keep, None
    if not colon:
        return action, None
    if action is not lifetimes.OnEndpointRemoved.DRAIN:
        found.violate(_path(ON_ENDPOINT_REMOVED), value, _ON_REMOVED)
        return keep, None
    return action, _seconds({ON_ENDPOINT_REMOVED: time}, ON_ENDPOINT_REMOVED, _GRACES, found)


def _seconds(
    annotations: Mapping[str, str], name: str, kind: settings.Duration, found: findings.Findings
) -> float | None:
    value = annotations.get(name)
    if value is None:
        return None
    try:
        return kind.parse(value)
    except ValueError as error:
        found.violate(_path(name), value, str(error))
        return None


def _path(name: str) -> str:
    return f'metadata.annotations["{name}"]'
