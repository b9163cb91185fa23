"""`kproxy explain` with files, and what it says to wrong usage."""

import json
import re
from pathlib import Path

import pytest

from kproxy.cli import main
from kproxy.modes import registry

EXAMPLES = Path(__file__).parents[2] / "examples"
FIXTURES = Path(__file__).parents[1] / "fixtures" / "recordings"
RECORDED = FIXTURES / "kube-proxy-v1.20.2"
CLUSTER_IPS = ("--manifests", str(EXAMPLES / "five-clusterip-scenarios.yaml"))


def test_the_answer_and_its_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["explain", "redis", "--from", "10.0.0.7", *CLUSTER_IPS]) == 0
    out = capsys.readouterr().out
    assert out.startswith("A connection from 10.0.0.7 to Service default/redis:\n  ok  service")
    assert "SERVED: a connection to 127.0.19.85:6379 is served by one of 10.244.1.69:6379" in out


def test_json_has_names_that_stay(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["explain", "redis-empty", "-o", "json", *CLUSTER_IPS]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {
        *("verdict", "reason", "message", "advice", "endpoint", "candidates", "steps")
    }
    assert (found["verdict"], found["reason"]) == ("refused", "no-endpoint-objects")
    assert found["endpoint"] is None
    assert {"name", "finding", "good"} == found["steps"][0].keys()


def test_the_recorded_rules_by_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    files = [RECORDED / "objects.json", RECORDED / "endpointslices-v1beta1.json"]
    code = main.run(
        [
            *("explain", "--all", "--as", "iptables", "--rules-of", "1.20", "--no-comments"),
            *(word for path in files for word in ("--manifests", str(path))),
            *("--hostname-override", "node1", "--cluster-cidr", "10.244.0.0/16"),
        ]
    )
    assert code == 0
    recorded = "".join(
        (RECORDED / f"iptables-mode.{table}.rules").read_text() for table in ("filter", "nat")
    )
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(recorded.splitlines())


@pytest.mark.parametrize("mode", registry.MODES)
def test_every_mode_explains_its_rules(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["explain", "redis", "--as", mode, *CLUSTER_IPS]) == 0
    with_comments = capsys.readouterr().out
    assert main.run(["explain", "redis", "--as", mode, "--no-comments", *CLUSTER_IPS]) == 0
    bare = capsys.readouterr().out
    assert "#" not in bare
    assert "10.0.19.85" in bare
    assert "10.0.219.234" not in bare, "another Service's address"
    assert [line for line in with_comments.splitlines() if re.match("# [A-Z0-9]", line)]


def test_one_part_of_several(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["explain", "redis", "--as", "ipvs", "--part", "ipset", *CLUSTER_IPS]) == 0
    assert "add KUBE-CLUSTER-IP 10.0.19.85,tcp:6379" in capsys.readouterr().out
    assert main.run(["explain", "redis", "--as", "ipvs", "--part", "nft", *CLUSTER_IPS]) == 2
    assert "ipvs mode has ipvsadm-restore, ipset restore, ip -batch -" in capsys.readouterr().err


def test_a_trace_ends_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    trace = ("explain", "redis", "--trace", "--from", "192.0.2.1", "--node-ip", "10.0.0.1")
    assert main.run([*trace, "--cluster-cidr", "10.244.0.0/16", *CLUSTER_IPS]) == 0
    out = capsys.readouterr().out
    rows = out.split("== side by side\n")[1].splitlines()
    assert [row.split()[0] for row in rows[1:]] == ["userspace", "iptables", "ipvs", "nftables"]
    assert all("10.244.1.69:6379 0.5" in row and "10.0.0.1" in row for row in rows[1:])


@pytest.mark.parametrize("more", [(), ("--trace",), *(("--as", each) for each in registry.MODES)])
def test_what_an_object_says_drives_no_terminal(
    more: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "\x1b]0;title\x07\x9b31m\u202e\r\nSERVED: all is well"
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "web",
            "labels": {hostile: hostile},
            "annotations": {hostile: hostile},
        },
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}], "selector": {hostile: hostile}},
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"port": 80}],
        "endpoints": [
            {
                "addresses": ["10.1.0.1"],
                "nodeName": hostile,
                "zone": hostile,
                "targetRef": {"kind": "Pod", "name": hostile},
            }
        ],
    }
    path = tmp_path / "web.json"
    path.write_text(json.dumps({"kind": "List", "apiVersion": "v1", "items": [service, endpoints]}))
    main.run(["explain", "web", "--manifests", str(path), *more])
    out = capsys.readouterr().out
    assert out
    assert [each for each in out.splitlines() if not each.replace("\t", " ").isprintable()] == []
    assert "\nSERVED: all is well" not in out


def test_an_object_that_was_refused_is_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    broken = ("--manifests", str(EXAMPLES / "broken.yaml"))
    assert main.run(["explain", "not-an-ip", "-o", "json", *broken]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["reason"] == "no-such-service"
    assert found["advice"].startswith("its object was refused, correct it: ")
    assert 'spec.clusterIP is "10.0.30.999"' in found["advice"]


def test_without_a_proxy_it_says_how_to_ask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["explain", "web", "--control", str(tmp_path / "nothing")]) == 1
    assert "no kproxy answers at" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(
            ["web", "--from", "10.0.0"], "--from 10.0.0: must be an IP address", id="from"
        ),
        pytest.param(["web", "--to", "10.0.0.1"], "--to 10.0.0.1: must be ADDRESS:PORT", id="to"),
        pytest.param(["web", "--as", "ebpf"], "--as ebpf: there is no such mode", id="mode"),
        pytest.param(["--all"], "--all is for --as", id="all"),
        pytest.param([], "name a Service", id="nothing"),
        pytest.param(["a/"], '"a/" names no Service', id="no name"),
        pytest.param(["a/b/c"], '"a/b/c" names no Service', id="two slashes"),
        pytest.param(
            ["web", "--from", "10.0.0.1", "--to", "[fd00::1]:80"],
            "different IP families",
            id="both",
        ),
        pytest.param(["web", "--part", "ipset"], "--part ipset is for --as", id="part alone"),
        pytest.param(["web", "--trace", "-o", "json"], "leave -o out", id="trace as JSON"),
        pytest.param(
            ["web", "--trace", "--from", "fd00::1"], "give --ip-family IPv6", id="trace's family"
        ),
        pytest.param(
            ["web", "--as", "ipvs", "--node-ip", "::1"], "must be an address of IPv4", id="node IP"
        ),
        pytest.param(["web", "-o", "xml"], "-o xml is no format: there are text", id="format"),
        pytest.param(["web", "--trace", "--as", "ipvs"], "leave --as out", id="trace"),
        pytest.param(
            ["--all", "--as", "ipvs", "--rules-of", "1.0", *CLUSTER_IPS],
            "--rules-of 1.0: must be one of",
            id="release",
        ),
        pytest.param(
            ["--all", "--as", "ipvs", "--cluster-cidr", "10.244.0.0/99", *CLUSTER_IPS],
            "--cluster-cidr 10.244.0.0/99",
            id="cluster CIDR",
        ),
        pytest.param(
            ["--all", "--as", "ipvs", "--ip-family", "six", *CLUSTER_IPS],
            "--ip-family six: must be IPv4 or IPv6",
            id="family",
        ),
    ],
)
def test_wrong_usage_gets_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["explain", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert sentence in said.err
    assert len(said.err.splitlines()) == 1


HINTED = """\
{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.77.0.9, ports: [{port: 12345}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [10.1.0.1], hints: {forZones: [{name: z1}]}}
- {addresses: [10.1.0.2], hints: {forZones: [{name: z2}]}}
"""


@pytest.mark.parametrize(
    ("flags", "candidates"),
    [
        pytest.param(["--hostname-override", "n1"], ["10.1.0.1:8080"], id="the Node's zone"),
        pytest.param(
            ["--hostname-override", "n1", "--node-zone", "z2"], ["10.1.0.2:8080"], id="the flag's"
        ),
        pytest.param(
            ["--hostname-override", "n2"], ["10.1.0.1:8080", "10.1.0.2:8080"], id="another node's"
        ),
    ],
)
def test_row_33_the_zone_of_the_node_decides(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    candidates: list[str],
) -> None:
    path = tmp_path / "web.yaml"
    path.write_text(HINTED)
    assert main.run(["explain", "web", "-o", "json", "--manifests", str(path), *flags]) == 0
    assert json.loads(capsys.readouterr().out)["candidates"] == candidates


CLAIMED_TWICE = """\
{apiVersion: v1, kind: Service, metadata: {name: a}, spec:
  {clusterIP: 10.77.0.1, ports: [{port: 80}]}}
---
apiVersion: v1
kind: Service
metadata: {name: b}
spec: {clusterIP: 10.77.0.1, ports: [{port: 80}]}
---
{apiVersion: v1, kind: Service, metadata: {name: c}, spec: {clusterIP: 10.77.0.999}}
"""


def test_what_is_wrong_with_files_is_no_part_of_the_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "web.yaml"
    path.write_text(CLAIMED_TWICE)
    assert main.run(["explain", "b", "-o", "json", "--manifests", str(path)]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["reason"] == "collision"
    assert "default/c" in said.err
    rendered = ["--all", "--as", "iptables", "--no-comments", "--manifests", str(path)]
    assert main.run(["explain", *rendered]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("*")
    assert "default/c" not in said.out


@pytest.mark.parametrize(
    "arguments", [["nosuch", "--as", "iptables"], ["redis:nope", "--as", "nftables"]]
)
def test_no_rules_for_what_is_not_there(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["explain", *arguments, *CLUSTER_IPS]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "there is no Service default/" in said.err


def test_rules_of_one_port(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "dns.yaml"
    path.write_text(
        "{apiVersion: v1, kind: Service, metadata: {name: dns}, spec: {clusterIP: 10.77.0.1, "
        "ports: [{name: dns, port: 53, protocol: UDP}, {name: metrics, port: 9153}]}}"
    )
    flags = ["--as", "iptables", "--no-comments", "--manifests", str(path)]
    assert main.run(["explain", "dns:metrics", *flags]) == 0
    out = capsys.readouterr().out
    assert "default/dns:metrics" in out
    assert "default/dns:dns" not in out


def test_a_trace_is_of_the_first_port_as_an_explanation_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "web.yaml"
    path.write_text(
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.77.0.1, "
        "ports: [{name: http, port: 80}, {name: admin, port: 90}]}}"
    )
    assert main.run(["explain", "web", "--trace", "--manifests", str(path)]) == 0
    out = capsys.readouterr().out
    assert "10.77.0.1:80/tcp" in out
    assert "10.77.0.1:90" not in out


def test_userspace_rules_of_ipv6_have_an_address_of_ipv6(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "web.yaml"
    path.write_text(
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 'fd00::1', "
        "ports: [{port: 80}]}}"
    )
    flags = ["--as", "userspace", "--no-comments", "--ip-family", "IPv6"]
    assert main.run(["explain", "web", *flags, "--manifests", str(path)]) == 0
    out = capsys.readouterr().out
    assert "fd00::1" in out
    assert "127.0.0.1" not in out


@pytest.mark.parametrize(
    ("flags", "reached"),
    [
        pytest.param(["--hostname-override", "n1"], {"10.1.0.1"}, id="the Node's zone"),
        pytest.param(
            ["--hostname-override", "n1", "--node-zone", "z2"], {"10.1.0.2"}, id="the flag's"
        ),
        pytest.param(["--rules-of", "1.20"], {"10.1.0.1", "10.1.0.2"}, id="1.20 has no hints"),
    ],
)
def test_row_33_rules_heed_hints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], reached: set[str]
) -> None:
    path = tmp_path / "web.yaml"
    path.write_text(HINTED)
    rules = ["explain", "web", "--as", "iptables", "--manifests", str(path)]
    assert main.run([*rules, *flags]) == 0
    out = capsys.readouterr().out
    assert set(re.findall(r"--to-destination ([0-9.]+):8080", out)) == reached
