"""Lists: versions, pages and what is refused. The rules are those of the API concepts page."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.simulator import lists, resources, status, storage
from tests.simulator.objects import new_storage, service

SERVICES = resources.SERVICES


def stored(*names: str, history: int = 1000) -> storage.Storage:
    objects = new_storage(history)
    for name in names:
        objects.create(SERVICES, service(name))
    return objects


def listed(objects: storage.Storage, namespace: str | None = None, **query: str) -> lists.Page:
    return lists.page(objects, SERVICES, namespace, lists.options(SERVICES, query))


def named(page: lists.Page) -> Sequence[str]:
    return [each["metadata"]["name"] for each in page.items]


def refusal(objects: storage.Storage, **query: str) -> status.StatusError:
    with pytest.raises(status.StatusError) as caught:
        listed(objects, **query)
    return caught.value


def test_pages_are_of_the_version_of_the_first() -> None:
    objects = stored("a", "b", "c", "d", "e")
    first = listed(objects, limit="2")
    assert (named(first), first.metadata["remainingItemCount"]) == (["a", "b"], 3)
    objects.delete(SERVICES, "c", "default")
    objects.update(SERVICES, service("d", labels={"new": "true"}))
    objects.create(SERVICES, service("dd"))
    second = listed(objects, **{"limit": "2", "continue": first.metadata["continue"]})
    assert named(second) == ["c", "d"]
    assert "labels" not in second.items[1]["metadata"]
    last = listed(objects, **{"limit": "2", "continue": second.metadata["continue"]})
    assert (named(last), "continue" in last.metadata) == (["e"], False)
    versions = {page.metadata["resourceVersion"] for page in (first, second, last)}
    assert versions == {first.metadata["resourceVersion"]}


def test_a_page_whose_version_is_forgotten_says_how_to_go_on() -> None:
    objects = stored("a", "b", "c")
    token = listed(objects, limit="1").metadata["continue"]
    objects.delete(SERVICES, "b", "default")
    objects.compact()
    error = refusal(objects, **{"continue": token})
    assert (error.code, error.reason) == (410, "Expired")
    rest = listed(objects, **{"continue": error.metadata["continue"]})
    assert named(rest) == ["c"]
    assert rest.metadata["resourceVersion"] == str(objects.resource_version)


@given(
    st.sets(st.text("ab-", min_size=1, max_size=3), max_size=8),
    st.integers(1, 4),
    st.sampled_from(["", "even=true"]),
)
def test_pages_together_are_the_whole_list(names: set[str], limit: int, selector: str) -> None:
    objects = new_storage()
    for number, name in enumerate(sorted(names)):
        namespace = ("default", "default-2")[number % 3 == 0]
        labels = {"even": str(number % 2 == 0).lower()}
        objects.create(SERVICES, service(name, namespace, labels=labels))
    for place in (None, "default", "default-2"):
        whole = named(listed(objects, place, labelSelector=selector))
        page = listed(objects, place, limit=str(limit), labelSelector=selector)
        parts = [*named(page)]
        while token := page.metadata.get("continue"):
            query = {"limit": str(limit), "labelSelector": selector, "continue": str(token)}
            page = listed(objects, place, **query)
            assert 0 < len(page.items) <= limit
            parts += named(page)
        assert parts == whole


def test_version_zero_takes_no_notice_of_the_limit() -> None:
    page = listed(stored("a", "b", "c"), limit="1", resourceVersion="0")
    assert (named(page), "continue" in page.metadata) == (["a", "b", "c"], False)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({}, ["a", "b"]),
        ({"resourceVersionMatch": "NotOlderThan"}, ["a", "b"]),
        ({"resourceVersionMatch": "Exact"}, ["a"]),
        ({"limit": "5"}, ["a"]),
    ],
)
def test_an_old_version_is_a_minimum_unless_it_is_to_be_exact(
    query: dict[str, str], names: list[str]
) -> None:
    objects = stored("a")
    old = str(objects.resource_version)
    objects.create(SERVICES, service("b"))
    assert named(listed(objects, resourceVersion=old, **query)) == names


def test_a_version_that_is_forgotten_or_has_not_happened_is_refused() -> None:
    objects = stored("a", "b", "c", history=1)
    exact = {"resourceVersion": "2", "resourceVersionMatch": "Exact"}
    assert refusal(objects, **exact).code == 410
    future = refusal(objects, resourceVersion="100")
    assert (future.code, future.retry_after) == (504, 1)
    assert "Too large resource version: 100, current: 4" in future.message


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        ({"limit": "-1"}, 400, "invalid syntax"),
        ({"resourceVersion": "x"}, 422, "resourceVersion: Invalid value"),
        ({"continue": "!"}, 400, "continue key is not valid"),
        ({"continue": "W10"}, 400, "continue key is not valid"),
        ({"continue": "e30", "resourceVersion": "1"}, 400, "not allowed when using continue"),
        ({"resourceVersionMatch": "Exact"}, 422, "unless resourceVersion is provided"),
        ({"resourceVersionMatch": "Best", "resourceVersion": "1"}, 422, "supported values"),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "0"}, 422, 'resourceVersion "0"'),
        (
            {"resourceVersionMatch": "Exact", "resourceVersion": "1", "continue": "e30"},
            422,
            "when continue is provided",
        ),
    ],
)
def test_queries_that_make_no_sense(query: dict[str, str], code: int, words: str) -> None:
    error = refusal(stored("a"), **query)
    assert error.code == code
    assert words in error.message
