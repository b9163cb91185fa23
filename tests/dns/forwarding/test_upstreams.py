"""Which servers a resolv.conf names."""

import os
from pathlib import Path

from kproxy.dns.forwarding import upstreams
from kproxy.model import addresses


def test_a_resolv_conf_is_read_as_glibc_reads_it() -> None:
    text = """
# a comment
; another
search example.com
nameserver 192.0.2.1
nameserver\t2001:db8::1   # behind it
nameserver nonsense
options ndots:5
nameserver 192.0.2.3
nameserver 192.0.2.4
"""

    assert upstreams.parse(text) == (
        addresses.SocketAddress("192.0.2.1", 53),
        addresses.SocketAddress("2001:db8::1", 53),
        addresses.SocketAddress("192.0.2.3", 53),
    )


def test_without_a_server_it_is_this_host() -> None:
    assert upstreams.parse("search example.com") == (addresses.SocketAddress("127.0.0.1", 53),)


def test_a_changed_file_is_read_again_and_one_that_is_gone_leaves_what_was(tmp_path: Path) -> None:
    now = 0.0
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 192.0.2.1\n")
    servers = upstreams.ResolvConf(file, lambda: now)
    first = addresses.SocketAddress("192.0.2.1", 53)
    second = addresses.SocketAddress("192.0.2.2", 53)

    assert servers() == (first,)
    file.write_text("nameserver 192.0.2.2\n")
    os.utime(file, ns=(1, 1))
    assert servers() == (first,)
    now = 1.0
    assert servers() == (second,)
    file.unlink()
    now = 2.0
    assert servers() == (second,)


def test_the_setting_is_servers_or_none() -> None:
    given = upstreams.chosen([("192.0.2.1", 5353)])

    assert given is not None
    assert given() == (addresses.SocketAddress("192.0.2.1", 5353),)
    assert upstreams.chosen(None) is None
    assert isinstance(upstreams.chosen(()), upstreams.ResolvConf)
