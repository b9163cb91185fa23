"""The state of a frontend, for people and for `kproxy get services`."""

from dataclasses import dataclass

from kproxy.model import forwarding
from kproxy.portal import budget, claims
from kproxy.reconcile import collisions, frontend_book
from kproxy.reconcile.planning import placing, rules

_STATES = forwarding.FrontendState


@dataclass(frozen=True, slots=True)
class FrontendStatus:
    """Where a frontend is, for people and for `kproxy get services`.

    `detail` says more in a clause. `bound` is the address it has or would have, None when it
    cannot have any.
    """

    frontend: forwarding.Frontend
    bound: forwarding.PortalAddress | None
    state: forwarding.FrontendState
    detail: str = ""


def of_place(
    plan: rules.PortPlan,
    place: placing.Place,
    claimed: claims.Claims,
    room: budget.Budget,
    book: frontend_book.FrontendBook,
) -> FrontendStatus:
    """The state of one frontend."""
    frontend, address = place.frontend, place.address
    if address is None:
        return FrontendStatus(frontend, None, place.state or _STATES.UNAVAILABLE, place.detail)
    winner = claimed.winner(address)
    if winner is not None and not collisions.is_served(plan.rule.name, frontend, winner):
        detail = f"{address} belongs to {winner.name}"
        return FrontendStatus(frontend, address, _STATES.COLLISION, detail)
    fate = place.state or plan.rule.fate(frontend)
    if fate is _STATES.NO_ENDPOINTS:
        detail = f"connections are refused: {plan.why_absent(frontend)}"
        return FrontendStatus(frontend, address, fate, detail)
    shortage = room.shortage(address)
    if shortage is not None:
        return FrontendStatus(frontend, address, _STATES.OVER_BUDGET, _SHORTAGES[shortage])
    if book.is_open(address):
        note = _note(plan, place) if fate is _STATES.BOUND else _who_is_dropped(plan, place)
        return FrontendStatus(frontend, address, fate, note)
    failure = book.failure(address)
    state = _STATES.UNAVAILABLE if failure else _STATES.OPENING
    return FrontendStatus(frontend, address, state, failure or "about to be opened")


_SHORTAGES = {
    budget.Shortage.LISTENERS: (
        "no listener is left in the fair share of this Service and its namespace; raise "
        "--max-listeners or the limit of open files (ulimit -n)"
    ),
    budget.Shortage.SERVICES: (
        "its namespace has more Services than one may have; raise --max-services-per-namespace"
    ),
}


def _note(plan: rules.PortPlan, place: placing.Place) -> str:
    """A note about a bound frontend, such as a moved port; "" if there is nothing to note."""
    notes = []
    if place.admitted is not None:
        notes.append("connections from outside of spec.loadBalancerSourceRanges are dropped")
    if place.address is not None and place.address.port != place.frontend.port:
        notes.append(
            f"this user may not bind port {place.frontend.port}: "
            f"clients connect to port {place.address.port}"
        )
    if plan.unused:
        notes.append(
            f"{plan.unused} endpoints get no connections; raise --max-endpoints-per-service"
        )
    return "; ".join(notes)


def _who_is_dropped(plan: rules.PortPlan, place: placing.Place) -> str:
    """Why a frontend drops connections, and which clients it serves nevertheless."""
    if place.detail:
        return place.detail
    why = f"connections are dropped: {plan.why_absent(place.frontend)}"
    return f"{why}; clients on this node are served" if place.admitted else why
