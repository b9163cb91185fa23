"""Rules about connections that a Service gives by annotations: how long they live, what they say.

Defaults cost nothing: such connections live until one of their ends ends them, as in kube-proxy.
"""

from dataclasses import dataclass
from enum import StrEnum

DEFAULT_GRACE_SECONDS = 30.0
"""Kubernetes' default for the time that a pod has to end (`terminationGracePeriodSeconds`)."""


class OnEndpointRemoved(StrEnum):
    """What becomes of the connections to an endpoint that is removed."""

    KEEP = "keep"
    """They go on to their end."""
    DRAIN = "drain"
    """They end at a quiet moment, or by a reset when the time for that is over."""
    RESET = "reset"
    """They are reset."""


class ProxyProtocol(StrEnum):
    """The version of the PROXY protocol in which a backend gets its client's address."""

    V1 = "v1"
    V2 = "v2"


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long the connections of a Service may live. Times are in seconds.

    A connection that is older than `max_age` (None: no limit), or whose endpoint is removed while
    `on_removed` is DRAIN, is ended at a quiet moment within `age_grace` or `drain`, else reset.
    """

    max_age: float | None = None
    age_grace: float = DEFAULT_GRACE_SECONDS
    on_removed: OnEndpointRemoved = OnEndpointRemoved.KEEP
    drain: float = DEFAULT_GRACE_SECONDS

    @property
    def is_limited(self) -> bool:
        """Whether the connections have to be watched at all."""
        return self.max_age is not None or self.on_removed is not OnEndpointRemoved.KEEP


UNLIMITED = Lifetime()
"""As Services have it that say nothing."""
