"""Services and pods find each other as if everyone looked at all of the others."""

from hypothesis import given
from hypothesis import strategies as st

from kproxy.simulator.controllers import selection
from kproxy.simulator.kinds import subsets
from kproxy.simulator.store import resources
from kproxy.simulator.store.storage import Object
from tests.simulator.objects import new_storage, pod, service

labels = st.dictionaries(st.sampled_from("abc"), st.sampled_from("12"))
places = st.tuples(st.sampled_from(["default", "other"]), labels)


def identities(found: list[Object]) -> set[str]:
    uids = [str(each["metadata"]["uid"]) for each in found]
    assert len(uids) == len(set(uids))
    return set(uids)


@given(st.lists(places, max_size=6), st.lists(places, max_size=6))
def test_what_is_found_is_what_selectors_and_labels_say(
    selectors: list[tuple[str, dict[str, str]]], labelled: list[tuple[str, dict[str, str]]]
) -> None:
    objects = new_storage()
    chosen = selection.Selection(objects)
    for number, (namespace, selector) in enumerate(selectors):
        made = service(f"s{number}", namespace)
        spec = {**made["spec"], "selector": selector} if selector else made["spec"]
        objects.create(resources.SERVICES, {**made, "spec": spec})
    for number, (namespace, of_pod) in enumerate(labelled):
        made = pod(f"p{number}")
        metadata = {**made["metadata"], "namespace": namespace, "labels": of_pod}
        objects.create(resources.PODS, {**made, "metadata": metadata})
    pairs = {
        (one["metadata"]["uid"], other["metadata"]["uid"])
        for one in objects.list(resources.SERVICES)
        for other in objects.list(resources.PODS)
        if one["metadata"]["namespace"] == other["metadata"]["namespace"]
        and subsets.selects(one, other["metadata"]["labels"])
    }
    for one in objects.list(resources.SERVICES):
        uid = one["metadata"]["uid"]
        assert identities(chosen.pods(one)) == {b for a, b in pairs if a == uid}
    for other in objects.list(resources.PODS):
        uid = other["metadata"]["uid"]
        assert identities(chosen.services(other)) == {a for a, b in pairs if b == uid}
