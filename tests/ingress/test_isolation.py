"""Which Ingresses are left out because nginx refuses them."""

import pytest

from kproxy.ingress import isolation
from kproxy.model import names
from kproxy.model.kinds.ingress import ingresses


def named(*numbers: int) -> list[ingresses.Ingress]:
    """Ingresses of these numbers."""
    return [ingresses.Ingress(names.NamespacedName("default", f"i{each}")) for each in numbers]


class Nginx:
    """Refuses a configuration that has one of the `bad` Ingresses, and counts what it is asked."""

    def __init__(self, served: list[ingresses.Ingress], *bad: int) -> None:
        self._served = served
        self._bad = named(*bad)
        self.tests = 0

    async def refusal(self, left: isolation.Left) -> str:
        """The name of the first bad one, as nginx's words."""
        self.tests += 1
        found = [each.name for each in self._bad if each in self._served and each.name not in left]
        return str(found[0]) if found else ""


@pytest.mark.parametrize("bad", [[0], [7], [19], [3, 4], [0, 19], [2, 5, 11, 17], list(range(10))])
async def test_those_at_fault_are_found_and_no_others(bad: list[int]) -> None:
    served = named(*range(20))
    nginx = Nginx(served, *bad)
    found = await isolation.search(served, await nginx.refusal(frozenset()), nginx.refusal)

    assert sorted(each.ingress.name for each in found) == sorted(each.name for each in named(*bad))
    assert {each.words for each in found} == {str(each.name) for each in named(*bad)}


async def test_one_among_many_is_found_with_few_tests() -> None:
    served = named(*range(1000))
    nginx = Nginx(served, 613)
    found = await isolation.search(served, "words", nginx.refusal)

    assert [each.ingress for each in found] == named(613)
    assert nginx.tests <= 12


async def test_none_is_blamed_for_what_remains_without_them() -> None:
    served = named(*range(10))
    nginx = Nginx(served, 9)

    assert await isolation.search(served[:5], "words", nginx.refusal) == []
    assert await isolation.search([], "words", nginx.refusal) == []


async def test_a_search_has_an_end_and_brings_something() -> None:
    served = named(*range(200))
    nginx = Nginx(served, *range(200))
    found = await isolation.search(served, "words", nginx.refusal)

    assert nginx.tests <= isolation.MOST_TESTS + 10
    assert len(found) > 5
