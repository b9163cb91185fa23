"""Lists: versions, pages and what is refused. The rules are those of the API concepts page."""

import base64
import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.simulator.api.reading import lists, watch_cache
from kproxy.simulator.store import resources, statuses, storage
from tests.simulator.objects import new_storage, service

SERVICES = resources.SERVICES


def stored(*names: str, history: int = 1000) -> storage.Storage:
    objects = new_storage(history)
    for name in names:
        objects.create(SERVICES, service(name))
    return objects


def listed(objects: storage.Storage, namespace: str | None = None, **query: str) -> lists.Page:
    cache = watch_cache.WatchCache(objects)
    return lists.page(cache, SERVICES, namespace, lists.options(SERVICES, query))


def named(page: lists.Page) -> Sequence[str]:
    return [each["metadata"]["name"] for each in page.items]


def refusal(objects: storage.Storage, **query: str) -> statuses.StatusError:
    with pytest.raises(statuses.StatusError) as caught:
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


def token(**fields: object) -> str:
    """A continue token as a client would forge one."""
    whole = {"v": "meta.k8s.io/v1", "rv": 2, "start": "default/a", **fields}
    return base64.urlsafe_b64encode(json.dumps(whole).encode()).decode().rstrip("=")


PAST = "3"
"""The version at which a and b were there; then c came, and the newest is 5."""


def lagging() -> watch_cache.WatchCache:
    """Services a, b and c; the cache has the Services of version 4, and etcd is at 5."""
    objects = stored("a", "b", "c")
    objects.create(resources.ENDPOINTS, {"metadata": service("other")["metadata"]})
    return watch_cache.WatchCache(objects, follows_revision=False)


NEWEST, CACHED, EXACT, FIRST = ("abc", "5"), ("abc", "4"), ("ab", PAST), ("a", "5")


def query(match: str, limit: str, version: str) -> dict[str, str]:
    given = {"resourceVersionMatch": match, "limit": limit, "resourceVersion": version}
    return {name: value for name, value in given.items() if value}


@pytest.mark.parametrize(
    ("match", "limit", "version", "expected"),
    [
        # https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions
        ("", "", "", NEWEST),
        ("", "", "0", CACHED),
        ("", "", PAST, CACHED),
        ("", "1", "", FIRST),
        ("", "1", "0", CACHED),
        ("", "1", PAST, ("a", PAST)),
        ("", "9", PAST, EXACT),
        ("Exact", "", "", 422),
        ("Exact", "", "0", 422),
        ("Exact", "", PAST, EXACT),
        ("Exact", "1", "", 422),
        ("Exact", "1", "0", 422),
        ("Exact", "1", PAST, ("a", PAST)),
        ("NotOlderThan", "", "", 422),
        ("NotOlderThan", "", "0", CACHED),
        ("NotOlderThan", "", PAST, CACHED),
        ("NotOlderThan", "1", "", 422),
        ("NotOlderThan", "1", "0", CACHED),
        ("NotOlderThan", "1", PAST, FIRST),
    ],
)
def test_each_row_of_the_api_concepts_page(
    match: str, limit: str, version: str, expected: tuple[str, str] | int
) -> None:
    cache = lagging()
    if isinstance(expected, int):
        with pytest.raises(statuses.StatusError) as caught:
            lists.options(SERVICES, query(match, limit, version))
        assert caught.value.code == expected
        return
    wanted = lists.options(SERVICES, query(match, limit, version))
    page = lists.page(cache, SERVICES, None, wanted)
    assert ("".join(named(page)), page.metadata["resourceVersion"]) == expected
    assert ("continue" in page.metadata) == (expected in (FIRST, ("a", PAST)))


@pytest.mark.parametrize(
    ("version", "match", "expected"),
    [
        ("", "", "b"),
        ("0", "", "b"),
        (PAST, "", 400),
        (PAST, "Exact", 422),
        (PAST, "NotOlderThan", 422),
        ("", "NotOlderThan", 422),
        ("0", "NotOlderThan", 422),
    ],
)
def test_each_row_of_that_page_with_a_continue_token(
    version: str, match: str, expected: str | int
) -> None:
    objects = stored("a", "b")
    token = str(listed(objects, limit="1").metadata["continue"])
    asked = {**query(match, "1", version), "continue": token}
    if isinstance(expected, int):
        assert refusal(objects, **asked).code == expected
    else:
        assert named(listed(objects, **asked)) == [expected]


@pytest.mark.parametrize(("match", "limit"), [("", ""), ("Exact", ""), ("", "1")])
def test_a_version_that_has_not_happened_is_a_timeout_of_one_kind(match: str, limit: str) -> None:
    future = refusal(stored("a"), **query(match, limit, "100"))
    assert future.body() == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "Timeout: Too large resource version: 100, current: 2",
        "reason": "Timeout",
        "details": {
            "causes": [
                {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
            ],
            "retryAfterSeconds": 1,
        },
        "code": 504,
    }
    assert future.retry_after == 1


def test_a_cache_that_lags_has_not_reached_what_etcd_has() -> None:
    """Kubernetes issue 91073: etcd answered at 5, and the cache of a quiet resource is at 4."""
    with pytest.raises(statuses.StatusError, match="Too large resource version: 5, current: 4"):
        lists.page(lagging(), SERVICES, None, lists.options(SERVICES, {"resourceVersion": "5"}))


def test_what_is_not_exact_may_be_older() -> None:
    cache = lagging()
    for version, behind, names in (("0", 1, "ab"), ("0", 9, ""), (PAST, 9, "ab")):
        wanted = lists.options(SERVICES, {"resourceVersion": version})
        page = lists.page(cache, SERVICES, None, wanted, behind=behind)
        assert "".join(named(page)) == names
    for newest in ({}, {"resourceVersion": PAST, "resourceVersionMatch": "Exact"}):
        wanted = lists.options(SERVICES, newest)
        assert not lists.is_cached(wanted)


@pytest.mark.parametrize("limit", ["", "2"])
def test_an_exact_version_that_was_compacted_is_gone(limit: str) -> None:
    objects = stored("a", "b")
    objects.compact()
    error = refusal(objects, **query("Exact", limit, "2"))
    assert error.code == 410
    assert error.message == "The resourceVersion for the provided list is too old."


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        ({"limit": "x"}, 400, 'strconv.ParseInt: parsing "x": invalid syntax'),
        ({"limit": "\u0665"}, 400, "invalid syntax"),
        ({"limit": "9" * 5000}, 400, "value out of range"),
        ({"timeoutSeconds": "1e3"}, 400, "invalid syntax"),
        ({"resourceVersion": "x"}, 400, "invalid resource version: resourceVersion: Invalid value"),
        ({"resourceVersion": "-1"}, 400, "strconv.ParseUint"),
        ({"resourceVersion": "9" * 5000}, 400, "value out of range"),
        ({"continue": "!"}, 400, "invalid continue token: continue key is not valid"),
        ({"continue": "W10"}, 400, "continue key is not valid"),
        ({"continue": token(v="meta.k8s.io/v2")}, 400, "does not recognize this encoded version"),
        ({"continue": token(rv=0)}, 400, "incorrect encoded start resourceVersion"),
        ({"continue": token(rv="5")}, 400, "incorrect encoded start resourceVersion"),
        ({"continue": token(rv=2**63)}, 400, "incorrect encoded start resourceVersion"),
        ({"continue": token(rv=10**30)}, 400, "incorrect encoded start resourceVersion"),
        ({"continue": token(rv=9)}, 504, "Too large resource version: 9"),
        ({"continue": token(start="")}, 400, "encoded start key empty"),
        ({"continue": token(start="../x")}, 400, "continue key is not valid: ../x"),
        ({"continue": token(start="a/../../x")}, 400, "continue key is not valid"),
        ({"continue": token(), "resourceVersion": "1"}, 400, "not allowed when using continue"),
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


@pytest.mark.parametrize("limit", ["-1", "0", "+0"])
def test_a_limit_of_nothing_is_none(limit: str) -> None:
    assert named(listed(stored("a", "b"), limit=limit)) == ["a", "b"]


def test_any_negative_version_in_a_token_lets_go_of_consistency() -> None:
    objects = stored("a", "b")
    for version in (-1, -5):
        assert named(listed(objects, **{"continue": token(rv=version)})) == ["a", "b"]
