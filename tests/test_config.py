"""Values that cannot work are refused before anything starts."""

import ipaddress
import socket
from pathlib import Path
from typing import Any

import pytest

from kproxy import config, errors, settings
from kproxy.portal import portal


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "web.yaml"
    path.touch()
    return path


def refused(**values: Any) -> str:
    """The sentence with which a configuration is refused."""
    with pytest.raises(errors.ConfigError) as caught:
        config.Config(**values)
    return str(caught.value)


def test_the_defaults_work(manifest: Path) -> None:
    made = config.Config(manifests=(manifest,))

    assert (made.grace_period, made.half_closed_timeout, made.idle_timeout) == (30.0, 300.0, None)
    assert made.strategy == "round-robin"
    assert not made.allow_loopback_endpoints
    assert made.namespaces == frozenset()


def test_nothing_to_serve_is_refused() -> None:
    assert "--manifests" in refused(manifests=())


def test_an_empty_namespace_is_refused(manifest: Path) -> None:
    assert "--namespace is empty" in refused(manifests=(manifest,), namespaces=frozenset({""}))


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        pytest.param("missing/ready.json", "does not exist", id="no such directory"),
        pytest.param("web.yaml/ready.json", "does not exist", id="a file for a directory"),
        pytest.param(".", "something other than a regular file", id="a directory"),
        pytest.param("dangling", "something other than a regular file", id="a broken link"),
        pytest.param("web.yaml", "manifests are read from there", id="a manifest"),
    ],
)
def test_a_place_that_a_ready_file_cannot_have_is_refused(
    manifest: Path, place: str, reason: str
) -> None:
    (manifest.parent / "dangling").symlink_to("nowhere")
    path = manifest.parent / place

    sentence = refused(manifests=(manifest,), ready_file=path)

    assert sentence.startswith(f"--ready-file {path}: ")
    assert reason in sentence


def test_a_ready_file_of_an_earlier_life_may_be_replaced(manifest: Path) -> None:
    path = manifest.with_name("ready.json")
    path.write_text("{}")

    assert config.Config(manifests=(manifest,), ready_file=path).ready_file == path


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        pytest.param("node-a", "node-a", id="as given"),
        pytest.param("  Node-A\n", "node-a", id="trimmed, in lower case"),
    ],
)
def test_the_node_is_named_as_kube_proxy_would(override: str, expected: str) -> None:
    assert config.node_name(override) == expected


def test_the_node_is_named_after_the_host_unless_overridden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Host.Example ")

    assert config.node_name(None) == "host.example"


@pytest.mark.parametrize("override", ["", " ", "\t\n"])
def test_a_node_without_a_name_is_refused(override: str) -> None:
    with pytest.raises(errors.ConfigError, match="--hostname-override is empty"):
        config.node_name(override)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param("127.0.0.1:80", ("127.0.0.1", 80), id="address and port"),
        pytest.param("127.0.0.1", ("127.0.0.1", 10256), id="an address alone"),
        pytest.param("127.0.0.1:0", ("127.0.0.1", 0), id="any port"),
        pytest.param("[::1]:80", ("::1", 80), id="IPv6 with a port"),
        pytest.param("[::]", ("::", 10256), id="IPv6 in brackets"),
        pytest.param("::1", ("::1", 10256), id="IPv6 alone"),
    ],
)
def test_an_address_is_read_as_kube_proxy_reads_it(
    given: str,
    expected: tuple[str, int],
) -> None:
    place = config.bind_address("--flag", given, config.DEFAULT_HEALTHZ)

    assert place is not None
    assert ((place.host, place.port), place.is_required) == (expected, True)


def test_an_address_that_is_not_given_is_the_default_and_may_be_taken() -> None:
    place = config.bind_address("--flag", None, config.DEFAULT_HEALTHZ)

    assert place is not None
    assert (place.host, place.port, place.is_required) == ("0.0.0.0", 10256, False)


def test_a_kubeconfig_variable_that_names_no_file_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "gone"))
    with pytest.raises(errors.ConfigError, match=r"no kubeconfig at .*gone: name .*--manifests"):
        config.load({}, {})
    monkeypatch.setenv("KUBECONFIG", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(errors.ConfigError, match="no Services to serve"):
        config.load({}, {})


def test_an_empty_address_means_none() -> None:
    assert config.bind_address("--flag", "", config.DEFAULT_HEALTHZ) is None
    assert config.control_socket("") is None


@pytest.mark.parametrize(
    "given",
    [
        *("localhost:80", ":80", "80", "1.2.3:80", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:99999"),
        *("[x]", "[::1", "::1]:80", "127.0.0.1:80:80", " ", "127.0.0.1:-1"),
    ],
)
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(errors.ConfigError, match="--flag"):
        config.bind_address("--flag", given, config.DEFAULT_HEALTHZ)


def test_the_control_socket_is_required_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    default, given = config.control_socket(None), config.control_socket("here.sock")

    assert default is not None
    assert given is not None
    assert (default.path, default.is_required) == (Path("/run/user/7/kproxy.sock"), False)
    assert default.is_private
    assert (given.path, given.is_required, given.is_private) == (Path("here.sock"), True, False)


def loaded(*flags: str, manifest: Path) -> config.Config:
    """The configuration that a command line gives."""
    given: dict[str, settings.Given] = {"manifests": [str(manifest)]}
    for flag in flags:
        name, _, value = flag.partition("=")
        more = given.setdefault(name.replace("-", "_"), [])
        assert isinstance(more, list)
        more.append(value)
    return config.load(given, {})


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], portal.NodePorts()),
        (["nodeport-addresses="], portal.NodePorts()),
        (["nodeport-addresses=primary"], portal.NodePorts(is_primary=True)),
        (
            ["nodeport-addresses=192.0.2.7/24, fd00::/8", "nodeport-addresses=198.51.100.7"],
            portal.NodePorts(
                tuple(map(ipaddress.ip_network, ["192.0.2.0/24", "fd00::/8", "198.51.100.7/32"]))
            ),
        ),
    ],
)
def test_row_12_the_addresses_of_node_ports_are_given_as_to_kube_proxy(
    manifest: Path, flags: list[str], expected: portal.NodePorts
) -> None:
    assert loaded(*flags, manifest=manifest).nodeport_addresses == expected


@pytest.mark.parametrize(
    "flags",
    [
        ["nodeport-addresses=primary", "nodeport-addresses=192.0.2.0/24"],
        ["nodeport-addresses=primary,192.0.2.0/24"],
        ["nodeport-addresses=eth0"],
        ["cluster-cidr=10.244.0.0/33"],
        ["service-cluster-ip-range=0.0.0.0/0"],
        ["service-cluster-ip-range=10.96.0.0/16,fd00::/8"],
        ["service-cluster-ip-range=127.0.0.0/8"],
        ["service-cluster-ip-range=fe80::/64"],
        ["service-cluster-ip-range=ff02::/112"],
        ["service-cluster-ip-range=169.0.0.0/8"],
        ["service-cluster-ip-range=0.0.0.0/8"],
        ["service-cluster-ip-range=::/64"],
    ],
)
def test_what_is_no_list_of_networks_is_refused(
    manifest: Path,
    flags: list[str],
) -> None:
    with pytest.raises(errors.ConfigError, match=f"^--{flags[0].partition('=')[0]} "):
        loaded(*flags, manifest=manifest)


def test_the_networks_of_pods_are_given_as_to_kube_proxy(manifest: Path) -> None:
    made = loaded("cluster-cidr=10.244.0.0/16,fd00:10:244::/56", manifest=manifest)
    assert list(map(str, made.cluster_cidr)) == ["10.244.0.0/16", "fd00:10:244::/56"]
    assert loaded("cluster-cidr=", manifest=manifest).cluster_cidr == ()
