"""An index finds what looking at everything would find."""

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from kproxy.simulator.store import indexes, resources
from kproxy.simulator.store.storage import Object
from tests.simulator.objects import new_storage, service

SERVICES = resources.SERVICES


def letters(item: Object) -> Iterable[str]:
    return str(item["metadata"].get("labels", {}).get("letters", ""))


def named(found: Iterable[Object]) -> set[str]:
    return {str(each["metadata"]["name"]) for each in found}


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "x", "y", "xy", "gone"]))),
    st.integers(0, 10),
)
def test_after_any_history_it_holds_what_a_list_does(
    history: list[tuple[str, str]], made_after: int
) -> None:
    objects = new_storage()
    index = None
    for step, (name, wanted) in enumerate(history):
        if step == made_after:
            index = indexes.Index(objects, SERVICES, letters)
        item = service(name, labels={"letters": wanted})
        is_there = objects.find(SERVICES, name, "default") is not None
        if wanted == "gone":
            if is_there:
                objects.delete(SERVICES, name, "default")
        elif is_there:
            objects.update(SERVICES, item)
        else:
            objects.create(SERVICES, item)
    index = index or indexes.Index(objects, SERVICES, letters)
    for letter in "xyz":
        found = [each for each in objects.list(SERVICES) if letter in letters(each)]
        assert named(index.get(letter)) == named(found)
        assert index.count(letter) == len(found)
        assert all(
            each is objects.get(SERVICES, name, "default")
            for each in index.get(letter)
            for name in named([each])
        )


def test_other_resources_are_not_its_business() -> None:
    objects = new_storage()
    index = indexes.Index(objects, SERVICES, letters)
    objects.create(resources.ENDPOINTS, service("web", labels={"letters": "x"}))
    assert index.get("x") == []
