"""Records out of another server's message, which are read by dnspython."""

from typing import NamedTuple

from kproxy.dns import wire


class Records(NamedTuple):
    """The records of a reply."""

    rcode: int
    answers: tuple[wire.Record, ...]
    authority: tuple[wire.Record, ...]


def read(reply: bytes) -> Records:
    """The records of a reply. Raises ValueError for what is not a message."""
    # It takes a tenth of a second to load: few proxies need it.
    import dns.exception  # noqa: PLC0415
    import dns.message  # noqa: PLC0415
    import dns.name  # noqa: PLC0415
    import dns.rdata  # noqa: PLC0415
    import dns.rrset  # noqa: PLC0415

    def records(section: list[dns.rrset.RRset]) -> tuple[wire.Record, ...]:
        return tuple(
            wire.Record(_wire(rrset.name), rrset.rdtype, rrset.ttl, _wire(data))
            for rrset in section
            for data in rrset
            if rrset.rdclass == wire.IN
        )

    def _wire(part: dns.name.Name | dns.rdata.Rdata) -> bytes:
        return part.to_wire() or b""

    try:
        message = dns.message.from_wire(reply)
        return Records(message.rcode(), records(message.answer), records(message.authority))
    except dns.exception.DNSException as error:
        raise ValueError(f"not a DNS message: {error}") from None
