"""Which Ingress it is that nginx refuses, so that the others come into force.

Everything that the rules let through is escaped, so nginx should refuse nothing. If it does, one
Ingress must not keep the changes of all others from coming into force.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from kproxy.model import names
from kproxy.model.kinds.ingress import ingresses

MOST_TESTS = 64
"""Tests of configurations in one search. What is not found then is found by the next search."""

Left = frozenset[names.NamespacedName]
Refusal = Callable[[Left], Awaitable[str]]
"""Why nginx refuses the configuration without these Ingresses; "" if it accepts it."""


@dataclass(frozen=True, slots=True)
class Barred:
    """An Ingress, as it was, that nginx refuses, and why."""

    ingress: ingresses.Ingress
    words: str


async def search(
    candidates: Sequence[ingresses.Ingress], words: str, refusal: Refusal
) -> list[Barred]:
    """Those of `candidates` that nginx refuses; `words` are its own about all of them.

    None if it refuses the configuration without any of them too: something else is at fault then.
    """
    rest = list(candidates)
    if not rest or await refusal(_names(rest)):
        return []
    tests, found = 1, list[Barred]()
    accepted = 0
    """nginx accepts so many of `rest`, from the first one on."""
    while words and tests < MOST_TESTS:
        # One too many: rest[:refused] is refused, and `words` say why.
        refused = len(rest)
        left = _names(each.ingress for each in found)
        while refused - accepted > 1:
            middle = (accepted + refused) // 2
            said = await refusal(left | _names(rest[middle:]))
            tests += 1
            if said:
                refused, words = middle, said
            else:
                accepted = middle
        found.append(Barred(rest.pop(refused - 1), words))
        words = await refusal(_names(each.ingress for each in found))
        tests += 1
    return found


def _names(found: Iterable[ingresses.Ingress]) -> Left:
    return frozenset(each.name for each in found)
