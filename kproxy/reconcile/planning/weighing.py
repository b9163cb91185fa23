"""The pools of a service port: the endpoints that get connections, with their weights."""

from collections.abc import Generator, Mapping, Sequence

from kproxy.model import addresses, forwarding, steps, weighting
from kproxy.model.kinds import endpoints, pod_kind

_LOCAL = forwarding.Scope.LOCAL

LabelValues = Mapping[str, str]
"""The values of the weight label of a Service's pods, by pod name."""

ALL_ALIKE: Mapping[addresses.SocketAddress, int] = {}
"""The weights of endpoints that are not 1, where there are none."""


def label_values(pods: Sequence[pod_kind.Pod], asked: weighting.Weights | None) -> dict[str, str]:
    """The values of the requested label of `pods`, by pod name."""
    if asked is None:
        return {}
    found = ((each.name.name, each.label(asked.label)) for each in pods)
    return {name: value for name, value in found if value is not None}


def weigh_in_steps(
    found: Sequence[endpoints.Endpoint], asked: weighting.Weights, labels: LabelValues
) -> Generator[None, None, dict[addresses.SocketAddress, int]]:
    """The weights of the endpoints in `found` whose weight is not 1."""
    by_address, by_label = dict(asked.by_address), dict(asked.by_label)
    default = weighting.DEFAULT_WEIGHT
    made: dict[addresses.SocketAddress, int] = {}
    for run in steps.runs(found):
        for each in run:
            weight = by_address.get(each.backend.address)
            if weight is None and by_label and each.pod in labels:
                weight = by_label.get(labels[each.pod])
            if weight is not None and weight != default:
                made[each.backend] = weight
        yield
    return made


def pools(
    chosen: endpoints.Chosen,
    most: int,
    weight_of: Mapping[addresses.SocketAddress, int],
    scopes: Sequence[forwarding.Scope],
) -> tuple[forwarding.Pool, ...]:
    """The pools of a port in these scopes, with at most so many endpoints in each.

    Where all weights are 0 there is no pool: clients are refused, as without endpoints.
    """
    made = []
    for family, each in chosen.families.items():
        for scope in scopes:
            found = each.local if scope is _LOCAL else each.cluster
            if not found:
                continue
            kept = found[:most]
            weights = _weights(kept, weight_of) if weight_of else ()
            if kept and (not weights or any(weights)):
                made.append(forwarding.Pool(scope, family, kept, weights))
    return tuple(made)


def _weights(
    backends: Sequence[addresses.SocketAddress], weight_of: Mapping[addresses.SocketAddress, int]
) -> tuple[int, ...]:
    """The weight of each endpoint; empty if all are the same and not 0."""
    weights = tuple(weight_of.get(each, weighting.DEFAULT_WEIGHT) for each in backends)
    is_even = len(set(weights)) == 1 and bool(weights[0])
    return () if is_even else weights
