"""What is kept of answers: never another thing than what is true now."""

from typing import Any

import dns.message
import dns.reversename
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kproxy.dns import cache, wire
from kproxy.model import names
from tests.dns.rig import lab

SERVICES = ("a", "b")
NAMESPACES = ("x", "y")
HOSTS = ("h-0", "")
ADDRESSES = ("10.244.0.1", "10.244.0.2")
IPS = ("10.96.0.1", "10.96.1.1")


def service(name: str, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def endpoint_slice(name: str, namespace: str, hosts: list[tuple[str, str, bool]]) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": name, "service.kubernetes.io/headless": ""},
        },
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": [address], "hostname": host or None, "conditions": {"ready": ready}}
            for address, host, ready in hosts
        ],
        "ports": [{"name": "p", "port": 80}],
    }


SPECS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(
        lambda ip, name: {"clusterIP": ip, "ports": [{"name": name, "port": 80}]},
        st.sampled_from(IPS),
        st.sampled_from(["p", "q"]),
    ),
    st.just({"clusterIP": "None"}),
    st.builds(
        lambda target: {"type": "ExternalName", "externalName": target},
        st.sampled_from(["a.x.svc.cluster.local", "b.y.svc.cluster.local", "www.example.com"]),
    ),
)
WHICH = st.tuples(st.sampled_from(SERVICES), st.sampled_from(NAMESPACES))
CHANGES = st.one_of(
    st.tuples(st.just("service"), WHICH, SPECS),
    st.tuples(
        st.just("slice"),
        WHICH,
        st.lists(
            st.tuples(st.sampled_from(ADDRESSES), st.sampled_from(HOSTS), st.booleans()),
            max_size=3,
        ),
    ),
    st.tuples(st.just("no service"), WHICH, st.none()),
    st.tuples(st.just("no slice"), WHICH, st.none()),
)
QUESTIONS = [
    *(
        (f"{prefix}{name}.{namespace}.svc.cluster.local", type_)
        for name in (*SERVICES, "c")
        for namespace in NAMESPACES
        for prefix, type_ in (
            ("", "A"),
            ("", "AAAA"),
            ("", "SRV"),
            ("", "CNAME"),
            ("h-0.", "A"),
            ("10-244-0-1.", "A"),
            ("_p._tcp.", "SRV"),
            ("_tcp.", "A"),
        )
    ),
    *((f"{namespace}.svc.cluster.local", "A") for namespace in (*NAMESPACES, "z")),
    *((f"a.{namespace}.svc", "A") for namespace in NAMESPACES),
    *((dns.reversename.from_address(each).to_text(), "PTR") for each in (*ADDRESSES, *IPS)),
    ("1.0.96.127.in-addr.arpa", "PTR"),
]


def asked(names: lab.Lab) -> list[bytes]:
    """The answers to all questions, from the bytes before any parsing where there are some."""
    made = []
    for name, type_ in QUESTIONS:
        packet = dns.message.make_query(name, type_, id=7).to_wire()
        whole = names.kept.whole.get(packet[2:])
        answer = packet[:2] + whole[0] if whole else names.answers.datagram(packet)
        assert isinstance(answer, bytes)
        made.append(answer)
    return made


def try_changes(changes: list[tuple[str, Any, Any]]) -> None:
    """After each change: from what is kept, and from a name server that keeps nothing."""
    keeping, forgetful = lab.Lab(), lab.Lab(keeps=False)
    for what, (name, namespace), value in changes:
        for each in (keeping, forgetful):
            if what == "service":
                each.put([service(name, namespace, value)])
            elif what == "slice":
                each.put([endpoint_slice(name, namespace, value)])
            else:
                kind = "Service" if what == "no service" else "EndpointSlice"
                each.delete(kind, name, namespace)
        expected = asked(forgetful)
        assert asked(keeping) == expected
        assert asked(keeping) == expected
    # A server that is made now, of the same objects, says the same.
    fresh = lab.Lab(keeps=False)
    for kind in ("Service", "EndpointSlice"):
        for accepted in forgetful.store.all(_KINDS[kind]).values():
            fresh.follow(fresh.store.apply(accepted))
    assert asked(keeping) == asked(fresh)


@settings(max_examples=10, deadline=None)
@given(st.lists(CHANGES, max_size=8))
def test_answers_with_a_cache_are_those_without(changes: list[tuple[str, Any, Any]]) -> None:
    try_changes(changes)


@pytest.mark.extra
@settings(max_examples=60, deadline=None)
@given(st.lists(CHANGES, max_size=20))
def test_many_answers_with_a_cache_are_those_without(changes: list[tuple[str, Any, Any]]) -> None:
    try_changes(changes)


_KINDS = {each.name: each for each in lab.KINDS}


def entry(*tags: str, rcode: wire.Rcode = wire.Rcode.NOERROR, answers: int = 0) -> cache.Entry:
    body = wire.Body(rcode, True, (answers, 0, 0), b"", (0,) * answers)
    return cache.Entry(body, [0], frozenset(names.NamespacedName(each, "s") for each in tags))


def test_the_oldest_answers_make_room() -> None:
    kept = cache.Cache(most_answers=2, most_absences=1)
    for number in range(3):
        kept.put((bytes((number,)), 1), entry("x"))
    kept.put((b"absent", 1), entry("x", rcode=wire.Rcode.NXDOMAIN))
    kept.put((b"another", 1), entry("x", rcode=wire.Rcode.NXDOMAIN))

    assert len(kept) == 3
    assert kept.get((b"\0", 1)) is None
    assert kept.get((b"\1", 1)) is not None
    assert kept.get((b"absent", 1)) is None


def test_questions_that_a_client_makes_up_displace_no_answers() -> None:
    """One name of 65,536 types, and a pod's name for every address, filled both tables: 50 MB."""
    kept = cache.Cache(most_answers=3, most_absences=2)
    real = [(b"web", wire.Type.A), (b"web", wire.Type.AAAA), (b"web", wire.Type.SRV)]
    for key, answers in zip(real, (1, 0, 1), strict=True):
        kept.put(key, entry("x", answers=answers))
    for number in range(100, 200):
        kept.put((b"web", number), entry("x"))
        kept.put((b"10-0-0-%d.x.pod" % number, wire.Type.A), entry(answers=1))

    assert len(kept) == 5
    assert all(kept.get(key) for key in real)


def test_padded_messages_are_not_kept() -> None:
    """Eight of 4 KiB for each of 40,000 questions are a gigabyte."""
    kept = cache.Cache()
    real, made_up = entry("x", answers=1), entry("x", rcode=wire.Rcode.NXDOMAIN)
    kept.put((b"web", 1), real)
    kept.put((b"nope", 1), made_up)
    for number in range(100):
        kept.put_whole(real, bytes((number,)) * 4096, b"answer")
        kept.put_whole(made_up, b"nope%d" % number, b"answer")

    assert len(kept.whole) == cache.MOST_SPELLINGS_OF_ABSENCES
    kept.put_whole(real, b"web", b"answer")
    assert b"web" in kept.whole


def test_what_depends_on_a_service_is_dropped_and_nothing_else() -> None:
    kept = cache.Cache()
    first, second = entry("x", "y"), entry("y")
    for key, each in ((b"first", first), (b"second", second)):
        kept.put((key, 1), each)
        kept.put_whole(each, key, b"answer")

    for _ in kept.drop([names.NamespacedName("x", "s")]):
        pass

    assert kept.get((b"first", 1)) is None
    assert kept.get((b"second", 1)) is second
    assert list(kept.whole) == [b"second"]


def test_a_client_that_varies_its_spelling_fills_nothing() -> None:
    kept = cache.Cache()
    only = entry("x")
    kept.put((b"name", 1), only)
    for number in range(100):
        kept.put_whole(only, str(number).encode(), b"answer")

    assert len(kept.whole) == cache.MOST_SPELLINGS
    assert b"99" in kept.whole


@pytest.mark.parametrize("keeps", [True, False])
def test_spellings_of_one_name_get_the_same_answer(keeps: bool) -> None:
    made = lab.Lab(keeps=keeps)
    made.put([service("web", "x", {"clusterIP": "10.96.0.7", "ports": [{"port": 80}]})])

    for name in (
        "web.x.svc.cluster.local.",
        "WEB.x.SVC.cluster.Local.",
        "wEb.X.sVc.cLuster.loCal.",
    ):
        for _ in range(2):
            response = made.ask(name)
            assert response.answer[0].name.to_text() == name
            assert [each.to_text() for each in response.answer[0]] == ["127.96.0.7"]
