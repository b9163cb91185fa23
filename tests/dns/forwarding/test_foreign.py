"""Records of another server's message, whatever it has sent."""

import random

import dns.message
import dns.rcode
import dns.rrset
import pytest

from kproxy.dns import wire
from kproxy.dns.forwarding import foreign
from tests.dns.rig import mutations


def reply() -> dns.message.Message:
    """A CNAME, and the address that it leads to."""
    made = dns.message.make_response(dns.message.make_query("www.example.com", "A"))
    made.answer += [
        dns.rrset.from_text("www.example.com.", 60, "IN", "CNAME", "web.example.com."),
        dns.rrset.from_text("web.example.com.", 30, "IN", "A", "192.0.2.1", "192.0.2.2"),
    ]
    made.authority.append(
        dns.rrset.from_text(
            "example.com.", 9, "IN", "SOA", "ns.example.com. h.example.com. 1 2 3 4 5"
        )
    )
    return made


def test_records_are_whole_and_without_compression() -> None:
    # dnspython writes the addresses of a name in any order.
    found = foreign.read(reply().to_wire())

    assert found.rcode == dns.rcode.NOERROR
    web = wire.from_text("web.example.com")
    assert found.answers[0] == wire.Record(
        wire.from_text("www.example.com"), wire.Type.CNAME, 60, web
    )
    assert sorted(found.answers[1:]) == [
        wire.Record(web, wire.Type.A, 30, bytes((192, 0, 2, 1))),
        wire.Record(web, wire.Type.A, 30, bytes((192, 0, 2, 2))),
    ]
    assert [each.type for each in found.authority] == [wire.Type.SOA]


@pytest.mark.parametrize("count", [2_000, pytest.param(50_000, marks=pytest.mark.extra)])
def test_what_is_no_message_is_a_value_error(count: int) -> None:
    rng = random.Random(count)
    whole = reply().to_wire()
    for _ in range(count):
        try:
            found = foreign.read(mutations.mutated(rng, whole))
        except ValueError:
            continue
        assert all(record.name.endswith(b"\0") for record in found.answers)
