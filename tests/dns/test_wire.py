"""Messages by hand, held to what dnspython makes of the same bytes."""

import random
import struct

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.dns import responder, wire, zone
from tests.dns.rig import lab, mutations

LABELS = st.lists(st.binary(min_size=1, max_size=63), max_size=8).filter(
    lambda labels: sum(len(each) + 1 for each in labels) < 255
)
ASCII_LABELS = st.lists(
    st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=20),
    min_size=1,
    max_size=6,
)
OBJECTS = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.21, ports: [{name: http, port: 80}]}
"""
NAME = "web.default.svc.cluster.local"


@given(LABELS, st.integers(1, 250), st.booleans(), st.integers(0, 65535), st.booleans())
def test_a_question_is_read_as_dnspython_means_it(
    labels: list[bytes], type_: int, has_edns: bool, size: int, wants_dnssec: bool
) -> None:
    query = dns.message.make_query(
        dns.name.Name((*labels, b"")),
        dns.rdatatype.RdataType.make(type_),
        use_edns=0 if has_edns else False,
        payload=size if has_edns else 0,
        want_dnssec=has_edns and wants_dnssec,
        options=[dns.edns.GenericOption("65001", b"x" * 9)] if has_edns else None,
    )

    read = wire.read(query.to_wire(max_size=65535))

    assert read.id == query.id
    assert read.name == dns.name.Name((*labels, b"")).to_wire()
    assert (read.type, read.class_) == (type_, 1)
    assert read.has_edns == has_edns
    assert read.wants_dnssec == (has_edns and wants_dnssec)
    assert 512 <= read.limit <= 1232


@given(
    st.lists(st.tuples(ASCII_LABELS, st.integers(0, 2**32 - 1)), max_size=60),
    st.integers(512, 1232),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_a_response_is_what_was_put_into_it_as_far_as_it_fits(
    owners: list[tuple[list[str], int]], limit: int, has_edns: bool, rng: random.Random
) -> None:
    query = wire.read(
        dns.message.make_query("Some.Name.cluster.local", "A", use_edns=has_edns or None).to_wire()
    )
    records = [
        wire.Record(
            wire.name_of(
                (*labels, *rng.choice([("cluster", "local"), ("name", "cluster", "local")]))
            ),
            wire.Type.A,
            min(ttl, 2**31 - 1),
            bytes((192, 0, 2, number % 256)),
        )
        for number, (labels, ttl) in enumerate(owners)
    ]
    body = wire.body(query.name, wire.Rcode.NOERROR, (records, (), ()))

    made = wire.response(query, body, limit=limit, recurses=False)
    read = dns.message.from_wire(made)

    assert len(made) <= limit
    found = [
        ((rrset.name.to_wire() or b"").lower(), rrset.ttl, data.to_text())
        for rrset in dns.message.from_wire(made, one_rr_per_rrset=True).answer
        for data in rrset
    ]
    expected = [(each.name, each.ttl, ".".join(map(str, each.data))) for each in records]
    assert found == expected[: len(found)]
    assert bool(read.flags & dns.flags.TC) == (len(found) < len(records))
    assert read.question[0].name.to_text() == "Some.Name.cluster.local."


@pytest.mark.parametrize(
    ("packet", "rcode"),
    [
        (struct.pack("!6H", 7, 0, 0, 0, 0, 0), wire.Rcode.FORMERR),
        (struct.pack("!6H", 7, 0, 2, 0, 0, 0) + b"\0\0\1\0\1" * 2, wire.Rcode.FORMERR),
        (struct.pack("!6H", 7, 0, 1, 0, 0, 0) + b"\3www", wire.Rcode.FORMERR),
        (struct.pack("!6H", 7, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1", wire.Rcode.FORMERR),
        (struct.pack("!6H", 7, 0, 1, 0, 0, 0) + b"\0\0\1\0\1!", wire.Rcode.FORMERR),
        (struct.pack("!6H", 7, 0, 1, 1, 0, 0) + b"\0\0\1\0\1", wire.Rcode.FORMERR),
        (struct.pack("!6H", 7, 0, 1, 0, 0, 1) + b"\0\0\1\0\1", wire.Rcode.FORMERR),
        (struct.pack("!6H", 7, 0x2800, 1, 0, 0, 0) + b"\0\0\6\0\1", wire.Rcode.NOTIMP),
    ],
    ids=["none", "two", "cut", "pointer", "more", "answer", "no record", "update"],
)
def test_what_cannot_be_read_is_said_with_the_id_alone(packet: bytes, rcode: wire.Rcode) -> None:
    made = lab.Lab(OBJECTS).answers.datagram(packet)

    assert isinstance(made, bytes)
    response = dns.message.from_wire(made, ignore_trailing=False)
    assert response.id == 7
    assert int(response.rcode()) == rcode
    assert response.question == []


@pytest.mark.parametrize(
    "packet", [b"", b"\0" * 11, struct.pack("!6H", 7, 0x8000, 1, 0, 0, 0) + b"\0\0\1\0\1"]
)
def test_an_answer_and_what_has_no_header_get_no_answer(packet: bytes) -> None:
    names = lab.Lab(OBJECTS)

    assert names.answers.datagram(packet) is None
    assert names.counters.dropped == 1


def test_a_bug_leaves_one_question_without_an_answer() -> None:
    names = lab.Lab(OBJECTS)

    def answer(name: bytes, type_: int) -> zone.Answer | None:
        if name.startswith(b"\3bad"):
            raise RuntimeError("a bug")
        return names.zone.answer(name, type_)

    answers = responder.Responder(answer, names.kept, names.counters, recurses=False)
    bad = dns.message.make_query("bad.example", "A").to_wire()

    assert answers.datagram(bad) is None
    assert answers.message(bad) is None
    assert answers.bugs == 2
    assert isinstance(answers.datagram(dns.message.make_query(NAME, "A").to_wire()), bytes)


def test_another_version_of_edns_is_refused_with_the_one_that_is_known() -> None:
    query = dns.message.make_query(NAME, "A", use_edns=0)
    packet = bytearray(query.to_wire())
    packet[-5] = 1  # the version, in the OPT record at the end

    made = lab.Lab(OBJECTS).answers.datagram(bytes(packet))

    assert isinstance(made, bytes)
    response = dns.message.from_wire(made)
    assert response.rcode() == dns.rcode.BADVERS
    assert response.edns == 0


def test_only_a_question_with_edns_gets_an_answer_with_it() -> None:
    names = lab.Lab(OBJECTS)

    assert names.ask(NAME, use_edns=False).edns == -1
    with_edns = names.ask(NAME, use_edns=0, want_dnssec=True)
    assert with_edns.edns == 0
    assert with_edns.payload == 1232
    assert with_edns.ednsflags & dns.flags.DO
    assert with_edns.options == ()


@pytest.mark.parametrize("type_", ["AXFR", "IXFR"])
def test_the_zone_is_not_transferred(type_: str) -> None:
    query = dns.message.make_query("cluster.local", type_)

    made = lab.Lab(OBJECTS).answers.message(query.to_wire())

    assert isinstance(made, bytes)
    assert made[3] & 15 == wire.Rcode.REFUSED


@pytest.mark.parametrize(
    ("class_", "type_", "rcode"),
    [("CH", "TXT", "REFUSED"), ("ANY", "A", "REFUSED"), ("IN", "MAILB", "NOTIMP")],
)
def test_other_classes_and_meta_types(class_: str, type_: str, rcode: str) -> None:
    query = dns.message.make_query(NAME, type_, class_)

    made = lab.Lab(OBJECTS).answers.datagram(query.to_wire())

    assert isinstance(made, bytes)
    assert wire.Rcode(made[3] & 15).name == rcode


def test_a_long_answer_is_cut_and_comes_whole_by_tcp() -> None:
    names = lab.Lab()
    names.put(_headless(100))

    short = names.ask("many.default.svc.cluster.local", use_edns=False)
    query = dns.message.make_query("many.default.svc.cluster.local", "A")
    whole = names.answers.message(query.to_wire())

    assert short.flags & dns.flags.TC
    assert 0 < len(short.answer[0]) < 100
    assert len(short.to_wire()) <= 512
    assert isinstance(whole, bytes)
    assert len(dns.message.from_wire(whole).answer[0]) == 100


def test_no_message_is_longer_than_one_can_be() -> None:
    names = lab.Lab()
    names.put(_headless(5000))
    query = dns.message.make_query("_pg._tcp.many.default.svc.cluster.local", "SRV")

    whole = names.answers.message(query.to_wire())

    assert isinstance(whole, bytes)
    assert len(whole) <= 65535
    assert dns.message.from_wire(whole).flags & dns.flags.TC


def _headless(count: int) -> list[dict[str, object]]:
    """A headless Service with so many endpoints."""
    labels = {"kubernetes.io/service-name": "many", "service.kubernetes.io/headless": ""}
    hosts = [f"10.244.{number // 250}.{number % 250 + 1}" for number in range(count)]
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "many"},
            "spec": {"clusterIP": "None", "ports": [{"name": "pg", "port": 5432}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "many-1", "labels": labels},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [each]} for each in hosts],
            "ports": [{"name": "pg", "port": 5432}],
        },
    ]


def _try_mutations(count: int, seed: int) -> None:
    rng = random.Random(seed)
    names = lab.Lab(OBJECTS, recurses=True)
    names.put(_headless(3))
    packets = [
        dns.message.make_query(name, type_, use_edns=edns).to_wire()
        for name in (NAME, "WEB.default.svc", "many.default.svc.cluster.local", "www.example.com")
        for type_ in ("A", "SRV", "ANY", "SOA")
        for edns in (False, 0)
    ]
    for _ in range(count):
        packet = mutations.mutated(rng, rng.choice(packets))
        for ask in (names.answers.datagram, names.answers.message):
            made = ask(packet)
            if not isinstance(made, bytes):
                continue
            assert not packet[2] & 0x80
            assert made[:2] == packet[:2]
            assert made[2] & 0x80
            response = dns.message.from_wire(made)
            if response.question:
                assert made[12:].startswith(packet[12 : packet.index(0, 12)])
    assert names.answers.bugs == 0
    assert names.records(NAME) == ["127.96.0.21"]


def test_broken_packets_are_answered_or_dropped() -> None:
    _try_mutations(2_000, seed=1)


@pytest.mark.extra
def test_a_hundred_thousand_broken_packets_are_answered_or_dropped() -> None:
    _try_mutations(100_000, seed=2)


@given(st.binary(max_size=200))
def test_noise_is_answered_or_dropped(packet: bytes) -> None:
    answers = lab.Lab().answers

    made = answers.datagram(packet)

    assert made is None or isinstance(made, bytes)
    assert answers.bugs == 0
