"""Names of elsewhere: through kproxy to another server, and back."""

import asyncio
import socket
from pathlib import Path

import dns.asyncquery
import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest

from kproxy.dns import settings, wire
from kproxy.dns.forwarding import forwarder
from kproxy.model import addresses
from tests.dns.rig import servers

PATIENCE = 20.0
EXTERNAL = """
apiVersion: v1
kind: Service
metadata: {name: theirs}
spec: {type: ExternalName, externalName: www.example.com}
"""


async def asked(
    port: int, name: str, *, seconds: float = PATIENCE, **how: object
) -> dns.message.Message:
    """The answer to a question for an A record, over UDP."""
    query = dns.message.make_query(name, "A", **how)  # type: ignore[arg-type]  # passed on
    return await dns.asyncquery.udp(query, "127.0.0.1", port=port, timeout=seconds)


def impatient(monkeypatch: pytest.MonkeyPatch, reply: servers.Reply) -> servers.Reply:
    """`reply`, of a server that is given up soon; the next one has all the time that it needs."""
    monkeypatch.setattr(forwarder, "TRY_SECONDS", 0.2)

    def first(query: dns.message.Message) -> dns.message.Message | bytes | None:
        monkeypatch.setattr(forwarder, "TRY_SECONDS", PATIENCE)
        return reply(query)

    return first


def addresses_in(response: dns.message.Message) -> list[str]:
    return [data.to_text() for rrset in response.answer for data in rrset]


async def test_a_name_of_elsewhere_is_asked_elsewhere(tmp_path: Path) -> None:
    async with (
        servers.Other(servers.saying("192.0.2.7")).running() as other,
        servers.serving(tmp_path, upstreams=[other.address]) as (server, port),
    ):
        response = await asked(port, "WWW.example.com")

        assert addresses_in(response) == ["192.0.2.7"]
        assert response.question[0].name.to_text() == "WWW.example.com."
        assert response.flags & dns.flags.RA
        assert not response.flags & dns.flags.AA
        assert server.counters.forwarded == 1


async def test_each_question_has_a_port_and_a_number_of_its_own(tmp_path: Path) -> None:
    async with (
        servers.Other(servers.saying("192.0.2.7")).running() as other,
        servers.serving(tmp_path, upstreams=[other.address]) as (_, port),
    ):
        for number in range(20):
            await asked(port, f"n{number}.example.com")

        assert len({query.id for query in other.asked}) > 1
        assert len({client[1] for client in other.clients}) > 1


async def test_nothing_of_the_clients_options_is_passed_on(tmp_path: Path) -> None:
    secret = dns.edns.GenericOption("65001", b"secret")
    async with (
        servers.Other(servers.saying("192.0.2.7")).running() as other,
        servers.serving(tmp_path, upstreams=[other.address]) as (_, port),
    ):
        await asked(port, "a.example.com", use_edns=0, options=[secret], payload=4096)
        await asked(port, "b.example.com", use_edns=False)

    with_options, without = other.asked
    assert with_options.edns == 0
    assert with_options.options == ()
    assert without.edns == -1


async def test_clients_that_ask_the_same_share_one_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        servers.Other(impatient(monkeypatch, lambda _: None)).running() as silent,
        servers.Other(servers.saying("192.0.2.7")).running() as other,
        servers.serving(tmp_path, upstreams=[silent.address, other.address]) as (_, port),
    ):
        names = ["www.example.com", "WWW.example.com", "www.EXAMPLE.com"]
        responses = await asyncio.gather(*(asked(port, each) for each in names))

    assert [each.question[0].name.to_text() for each in responses] == [f"{n}." for n in names]
    assert [addresses_in(each) for each in responses] == [["192.0.2.7"]] * 3
    assert len(other.asked) == 1


@pytest.mark.parametrize(
    "first",
    [
        lambda query: dns.message.make_response(query).to_wire()[:11],
        lambda query: b"\xff" * 40,
        lambda query: dns.message.make_response(dns.message.make_query("x.", "A", id=query.id)),
    ],
    ids=["cut off", "noise", "another question"],
)
async def test_what_is_no_answer_to_the_question_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: servers.Reply
) -> None:
    async with (
        servers.Other(impatient(monkeypatch, first)).running() as odd,
        servers.Other(servers.saying("192.0.2.7")).running() as other,
        servers.serving(tmp_path, upstreams=[odd.address, other.address]) as (_, port),
    ):
        assert addresses_in(await asked(port, "www.example.com")) == ["192.0.2.7"]


async def test_a_server_that_fails_makes_room_for_the_next(tmp_path: Path) -> None:
    def failing(query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.set_rcode(dns.rcode.SERVFAIL)
        return response

    async with (
        servers.Other(failing).running() as bad,
        servers.Other(servers.saying("192.0.2.7")).running() as good,
        servers.serving(tmp_path, upstreams=[bad.address, good.address]) as (_, port),
    ):
        assert addresses_in(await asked(port, "www.example.com")) == ["192.0.2.7"]


async def test_a_server_that_is_not_there_is_asked_last_from_then_on(tmp_path: Path) -> None:
    async with (
        servers.Other(servers.saying("192.0.2.7")).running() as other,
        servers.absent() as absent,
        servers.serving(tmp_path, upstreams=[absent, other.address]) as (_, port),
    ):
        for number in range(3):
            assert addresses_in(await asked(port, f"n{number}.example.com")) == ["192.0.2.7"]


async def test_without_any_server_that_answers_it_is_a_failure(tmp_path: Path) -> None:
    async with (
        servers.absent() as absent,
        servers.serving(tmp_path, upstreams=[absent]) as (server, port),
    ):
        response = await asked(port, "www.example.com")

        assert response.rcode() == dns.rcode.SERVFAIL
        assert server.counters.forward_failures == 1


async def test_a_long_answer_is_fetched_by_tcp_and_cut_for_the_client(tmp_path: Path) -> None:
    def cut(query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.flags |= dns.flags.TC
        return response

    def long(query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        many = [f"192.0.2.{number}" for number in range(200)]
        response.answer.append(
            dns.rrset.from_text_list(query.question[0].name, 60, "IN", "A", many)
        )
        return response

    async with (
        servers.Other(cut, long).running() as other,
        servers.serving(tmp_path, upstreams=[other.address]) as (_, port),
    ):
        short = await asked(port, "www.example.com")
        query = dns.message.make_query("www.example.com", "A")
        whole = await dns.asyncquery.tcp(query, "127.0.0.1", port=port, timeout=PATIENCE)

    assert short.flags & dns.flags.TC
    assert len(addresses_in(whole)) == 200


async def test_a_services_cname_is_followed_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "theirs.yaml").write_text(EXTERNAL)
    async with (
        servers.Other(servers.saying("192.0.2.7")).running() as other,
        servers.serving(tmp_path, upstreams=[other.address]) as (_, port),
    ):
        response = await asked(port, "theirs.default.svc.cluster.local")

    assert addresses_in(response) == ["www.example.com.", "192.0.2.7"]
    assert [each.question[0].name.to_text() for each in other.asked] == ["www.example.com."]


async def test_without_recursion_desired_no_other_server_is_asked(tmp_path: Path) -> None:
    (tmp_path / "theirs.yaml").write_text(EXTERNAL)
    async with (
        servers.Other(servers.saying("192.0.2.7")).running() as other,
        servers.serving(tmp_path, upstreams=[other.address]) as (_, port),
    ):
        chain = await asked(port, "theirs.default.svc.cluster.local", flags=0)
        foreign = await asked(port, "www.example.com", flags=0)

    assert addresses_in(chain) == ["www.example.com."]
    assert foreign.rcode() == dns.rcode.REFUSED
    assert other.asked == []


async def test_questions_that_come_back_are_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An upstream that asks kproxy in turn, as a cluster's DNS Service may."""
    monkeypatch.setattr(forwarder, "TRY_SECONDS", 5.0)
    looped: list[addresses.SocketAddress] = []
    async with servers.serving(tmp_path, upstreams=looped) as (server, port):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as relay:
            # A relay between: the name server does not know its own address behind it.
            relay.bind(("127.0.0.1", 0))
            relay.setblocking(False)
            looped.append(addresses.SocketAddress(*relay.getsockname()))
            loop = asyncio.get_running_loop()
            origin: list[tuple[str, int]] = []

            def pass_on() -> None:
                packet, source = relay.recvfrom(4096)
                if source[1] == port:
                    relay.sendto(packet, origin.pop())
                else:
                    origin.append(source)
                    relay.sendto(packet, ("127.0.0.1", port))

            loop.add_reader(relay, pass_on)
            try:
                response = await asked(port, "www.example.com")
            finally:
                loop.remove_reader(relay)

        assert response.rcode() == dns.rcode.SERVFAIL
        assert server.counters.forwarded == 1


async def test_no_more_questions_are_under_way_than_there_may_be(tmp_path: Path) -> None:
    bounds = settings.Bounds(asked=2)
    async with (
        servers.Other(lambda _: None).running() as silent,
        servers.serving(tmp_path, upstreams=[silent.address], bounds=bounds) as (_, port),
    ):
        waiting = [
            asyncio.ensure_future(asked(port, f"n{number}.example.com")) for number in range(2)
        ]
        async with asyncio.timeout(PATIENCE):
            while len(silent.asked) < 2:  # noqa: ASYNC110  # another task's list
                await asyncio.sleep(0.01)

        assert (await asked(port, "one.more.example.com")).rcode() == dns.rcode.SERVFAIL
        for each in waiting:
            each.cancel()


async def test_a_bug_of_one_answer_harms_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        servers.Other(servers.saying("192.0.2.7")).running() as other,
        servers.serving(tmp_path, upstreams=[other.address]) as (_, port),
    ):
        with monkeypatch.context() as broken:
            broken.setattr(wire, "passed_on", None)
            with pytest.raises(dns.exception.Timeout):
                await asked(port, "www.example.com", seconds=0.2)

        assert addresses_in(await asked(port, "www.example.com")) == ["192.0.2.7"]
