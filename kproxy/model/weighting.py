"""Weights: in which proportion the endpoints of a Service get new connections."""

from dataclasses import dataclass

DEFAULT_WEIGHT = 1
"""Of an endpoint that is not named."""
MAX_WEIGHT = 1_000_000
"""As for backends in the Gateway API."""
DEFAULT_LABEL = "version"


@dataclass(frozen=True, slots=True)
class Weights:
    """What a Service says of the weights of its endpoints.

    An endpoint is named by its IP address, or by what its pod's label `label` says; if by both, the
    address counts. One that is not named has `DEFAULT_WEIGHT`. Weight 0 means no new connections.
    """

    by_address: tuple[tuple[str, int], ...] = ()
    by_label: tuple[tuple[str, int], ...] = ()
    label: str = DEFAULT_LABEL
