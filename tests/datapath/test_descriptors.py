"""How descriptors are shared out among listeners, connections and flows."""

import pytest

from kproxy import errors
from kproxy.datapath import descriptors


@pytest.mark.parametrize(
    ("open_files", "listeners"),
    [
        pytest.param(256, 1, id="a small limit"),
        pytest.param(1024, 10, id="the usual limit"),
        pytest.param(20_000, 0, id="no listener yet"),
        pytest.param(20_000, 5_000, id="many listeners"),
        pytest.param(1_048_576, 10_000, id="a big limit"),
    ],
)
def test_all_connections_with_all_pipes_fit_into_the_open_files(
    open_files: int, listeners: int
) -> None:
    limit = descriptors.connection_limit(open_files, listeners)
    needed = 2 * limit + 2 * descriptors.pipe_limit(open_files) + listeners
    assert needed + 32 <= open_files, "and some for logs, control and probes"
    assert needed + 128 >= open_files, "and not many are wasted"


@pytest.mark.parametrize("open_files", [1, 60])
def test_a_hopeless_limit_still_serves_one_connection(open_files: int) -> None:
    assert descriptors.connection_limit(open_files, 10) == 1
    assert descriptors.pipe_limit(open_files) == 1


def test_a_limit_that_open_files_cannot_carry_is_refused() -> None:
    possible = descriptors.connection_limit(1024, 0)
    descriptors.check(1024)
    descriptors.check(1024, connections=possible)
    with pytest.raises(errors.ConfigError, match=rf"1024 files.* carry {possible}:") as caught:
        descriptors.check(1024, connections=possible + 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("open_files", [64, 256, 1024, 20_000, 1_048_576])
def test_listeners_leave_a_quarter_of_the_files_to_clients(open_files: int) -> None:
    listeners = descriptors.listener_limit(open_files)
    connections = descriptors.connection_limit(open_files, listeners)
    descriptors.check(open_files, listeners=listeners)
    assert listeners >= 1
    assert 2 * connections >= listeners // 4
    needed = listeners + 2 * connections + 2 * descriptors.pipe_limit(open_files)
    assert needed <= open_files - 48, "and some for everything else"


def test_connections_that_are_asked_for_are_not_given_to_listeners() -> None:
    listeners = descriptors.listener_limit(1024, 300)
    assert descriptors.connection_limit(1024, listeners) >= 300
    assert descriptors.listener_limit(1024, descriptors.connection_limit(1024, 0)) >= 1


def test_more_listeners_than_open_files_can_carry_are_refused() -> None:
    with pytest.raises(errors.ConfigError, match=r"--max-listeners 1000: beside 64 ") as caught:
        descriptors.check(1024, listeners=1000)
    assert "ulimit -n" in str(caught.value)
    with pytest.raises(errors.ConfigError, match=r"--max-listeners 500: beside 300 "):
        descriptors.check(1024, listeners=500, connections=300)


def test_more_flows_than_files_are_refused() -> None:
    with pytest.raises(errors.ConfigError, match="--max-udp-flows 1000: the 1024 files"):
        descriptors.check(1024, flows=1000)
    descriptors.check(1024, flows=800)


@pytest.mark.parametrize("listeners", [1, 100, 14_520])
def test_flows_leave_three_quarters_of_what_listeners_leave_to_connections(listeners: int) -> None:
    flows = descriptors.flow_limit(20_000, listeners, None, range(32768, 61000))
    connections = descriptors.connection_limit(20_000, listeners, flows)
    assert flows >= 1_000
    assert 2 * connections >= 3 * flows - 1


def test_flows_take_no_more_than_half_of_the_ports_of_this_host() -> None:
    assert descriptors.flow_limit(1_000_000, 0, None, range(40_000, 42_000)) == 1_000


def test_connections_that_are_asked_for_are_not_given_to_flows() -> None:
    asked = descriptors.connection_limit(1024, 1)
    assert descriptors.flow_limit(1024, 1, asked, range(32768, 61000)) == 16


def test_sockets_that_rest_take_an_eighth_at_most_of_what_flows_leave() -> None:
    assert descriptors.resting_limit(1_000_000, 1, None, 1_000) == 128
    assert descriptors.resting_limit(1_000_000, 1, None, 16) == 16
    left = descriptors.free(1024) - 1 - 200
    assert descriptors.resting_limit(1024, 1, None, 200) == left // 8


@pytest.mark.parametrize("open_files", [64, 256, 1024, 20_000])
def test_connections_that_are_asked_for_are_not_given_to_sockets_that_rest(open_files: int) -> None:
    asked = descriptors.connection_limit(open_files, 1)
    flows = descriptors.flow_limit(open_files, 1, asked, range(32768, 61000))
    resting = descriptors.resting_limit(open_files, 1, asked, flows)
    assert resting == 0
