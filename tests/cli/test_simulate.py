"""`kproxy simulate` as users meet it: what it prints, the file it leaves with, and its end."""

import contextlib
import functools
import json
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from kproxy import errors
from kproxy.cli.parse import kubeconfig_file
from kproxy.demo import stage
from kproxy.simulator import admin_kubeconfig
from tests.cli import inside
from tests.cli.simulating import Simulation, started
from tests.e2e.rig import daemon, programs

DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: "web:1", ports: [{containerPort: 8080}]}]}
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_what_was_applied_and_ends_clean(tmp_path: Path, number: signal.Signals) -> None:
    manifest = tmp_path / "web.yaml"
    manifest.write_text(MANIFEST)
    with started(tmp_path, "--apply", str(manifest)) as simulation:
        simulation.wait_up()
        found = simulation.get("/apis/apps/v1/namespaces/default/deployments/web")
        assert found["kind"] == "Deployment"
        assert stat.S_IMODE(simulation.kubeconfig.stat().st_mode) == 0o600
        for words in (
            f"export KUBECONFIG={simulation.kubeconfig}",
            "kubectl get svc,pods",
            f"kproxy run --kubeconfig {simulation.kubeconfig} --allow-loopback-endpoints",
        ):
            assert words in simulation.out()

        simulation.process.send_signal(number)
        assert simulation.process.wait(daemon.DEADLINE) == 0
        assert simulation.err() == ""
        assert not simulation.kubeconfig.exists()
        assert list((tmp_path / "tmp").iterdir()) == []


def test_low_ports_that_are_moved_up_are_printed(tmp_path: Path) -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first <= 80:
        pytest.skip("port 80 needs no privilege here")
    manifest = tmp_path / "web.yaml"
    manifest.write_text(MANIFEST.replace("8080", "80"))
    with started(tmp_path, "--apply", str(manifest), wrapper=programs.unprivileged()) as simulation:
        simulation.wait_up()
        assert (
            f"may not bind ports below {first}: they are moved up by 10000, in the objects too, "
            "so that 80 is 10080"
        ) in simulation.out()
        found: Any = simulation.get("/apis/apps/v1/namespaces/default/deployments/web")
        (container,) = found["spec"]["template"]["spec"]["containers"]
        assert container["ports"][0]["containerPort"] == 10080


def test_pods_that_could_not_listen_are_printed_with_the_command_that_helps(
    tmp_path: Path,
) -> None:
    with started(tmp_path, "--pod-cidr", "198.18.0.0/23", "--nodes", "1") as simulation:
        simulation.wait_up()
        assert "ip route add local 198.18.1.0/24 dev lo" in simulation.out()
    with started(tmp_path) as simulation:
        simulation.wait_up()
        assert "ip route" not in simulation.out()


TEMPLATE = """
apiVersion: v1
kind: NetworkPolicy
metadata: {name: shop}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: LimitRange, metadata: {name: settings}}
- apiVersion: v1
  kind: Service
  metadata: {name: web, annotations: }
  spec: {selector: {app: web}, ports: [{port: 8080}]}
---
{apiVersion: extensions/v1beta1, kind: Deployment, metadata: {name: old}}
"""


def test_kinds_that_the_cluster_does_not_have_are_passed_over_by_name(tmp_path: Path) -> None:
    """As in the manifests of microservices-demo and bookinfo."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "shop.yaml").write_text(TEMPLATE)
    shop = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    many = {"apiVersion": "v1", "kind": "NamespaceList", "items": [shop]}
    (folder / "web.json").write_text(
        f"{json.dumps(yaml.safe_load(MANIFEST))}\n{json.dumps(many, indent=2)}"
    )
    (folder / "notes.txt").write_text("not a manifest")
    with started(tmp_path, "--filename", str(folder)) as simulation:
        simulation.wait_up()
        for path in ("/api/v1/namespaces/default/services", DEPLOYMENTS):
            assert simulation.get(f"{path}/web")["metadata"]["name"] == "web"
        assert simulation.get("/api/v1/namespaces/shop")["kind"] == "Namespace"
        lines = simulation.err().splitlines()
    origin = folder / "shop.yaml"
    for line, words in zip(
        lines,
        (
            f"{origin}, document 1 (line 2): NetworkPolicy shop is skipped: the simulated ",
            f"{origin}, document 2, item 1 (line 9): LimitRange settings is skipped",
            "document 3 (line 15): Deployment old is skipped: the simulated cluster has ",
        ),
        strict=True,
    ):
        assert words in line


def test_manifests_come_by_standard_input_too(tmp_path: Path) -> None:
    with started(tmp_path, "-f", "-", stdin=MANIFEST.encode()) as simulation:
        simulation.wait_up()
        assert simulation.get(f"{DEPLOYMENTS}/web")["kind"] == "Deployment"


def test_a_folder_without_manifests_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, line = failure(tmp_path, "-f", str(tmp_path / "empty"))
    assert (code, "there is no manifest in" in line) == (2, True)


def test_two_at_once_have_ranges_of_their_own(tmp_path: Path) -> None:
    service = (
        "\n---\n{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: NodePort, "
    )
    service += "selector: {app: web}, ports: [{port: 8080}]}}"
    folders = [tmp_path / "one", tmp_path / "two"]
    seen: list[tuple[str, str, int]] = []
    with contextlib.ExitStack() as stack:
        running = []
        for folder in folders:
            folder.mkdir()
            (folder / "web.yaml").write_text(MANIFEST + service)
            flags = ("-f", str(folder / "web.yaml"))
            running.append(stack.enter_context(started(folder, *flags, chooses=True)))
        for simulation in running:
            simulation.wait_up()
            daemon.wait_until(functools.partial(_ready, simulation), "a pod that is ready")
            spec = simulation.get("/api/v1/namespaces/default/services/web")["spec"]
            (pod,) = _ready(simulation)
            octets = ".".join(pod.split(".")[:2])
            seen.append(
                (spec["clusterIP"].rpartition(".")[0], octets, spec["ports"][0]["nodePort"])
            )
        told = [simulation.out() for simulation in running]
    assert sum("this one has ranges of its own" in each for each in told) >= 1
    (one, other) = seen
    assert one[0] != other[0]
    assert one[1] != other[1]
    assert one[2] != other[2]


def _ready(simulation: Simulation) -> list[str]:
    """The addresses of the pods that are ready."""
    pods: Any = simulation.get("/api/v1/namespaces/default/pods")["items"]
    return [
        pod["status"]["podIP"]
        for pod in pods
        if any(
            each["type"] == "Ready" and each["status"] == "True"
            for each in pod["status"].get("conditions", ())
        )
    ]


def test_an_old_server_and_faults_by_flags(tmp_path: Path) -> None:
    flags = ("--emulate", "1.20", "--fault", "forbidden,resource=nodes,count=1")
    with started(tmp_path, *flags) as simulation:
        simulation.wait_up()
        assert simulation.get("/version")["minor"] == "20"
        (fault,) = [
            each
            for each in simulation.get("/simulator/faults")["items"]
            if each["kind"] == "forbidden"
        ]
        assert (fault["resource"], fault["count"]) == ("nodes", 1)


@pytest.mark.parametrize("fault", ["mischief", "gone,count=two", "gone,x=1", "gone,count=1e3"])
def test_a_fault_that_is_none_is_one_sentence(tmp_path: Path, fault: str) -> None:
    code, line = failure(tmp_path, "--fault", fault)
    assert (code, f"--fault {fault}: a fault" in line) == (2, True)


def test_a_new_token_and_a_new_key_come_into_the_kubeconfig(tmp_path: Path) -> None:
    with started(tmp_path) as simulation:
        simulation.wait_up()
        before = simulation.kubeconfig.read_text()
        for kind in ("rotated-token", "rekey"):
            old = simulation.kubeconfig.read_text()
            simulation.post("/simulator/faults", {"kind": kind, "seconds": 0})
            is_new = functools.partial(_differs, simulation.kubeconfig, old)
            daemon.wait_until(is_new, "another kubeconfig")
            assert stat.S_IMODE(simulation.kubeconfig.stat().st_mode) == 0o600
            assert simulation.get("/api/v1/namespaces/default")["kind"] == "Namespace"
        was, now = (yaml.safe_load(each) for each in (before, simulation.kubeconfig.read_text()))
        assert was["users"][0]["user"]["token"] != now["users"][0]["user"]["token"]
        authority = "certificate-authority-data"
        assert was["clusters"][0]["cluster"][authority] != now["clusters"][0]["cluster"][authority]
        assert was["clusters"][0]["cluster"]["server"] == now["clusters"][0]["cluster"]["server"]
        simulation.process.send_signal(signal.SIGTERM)
        assert simulation.process.wait(daemon.DEADLINE) == 0
        assert not simulation.kubeconfig.exists()


def _differs(path: Path, text: str) -> bool:
    return path.read_text() != text


def failure(folder: Path, *flags: str) -> tuple[int, str]:
    """The exit code and the only line on stderr of a run that fails."""
    kubeconfig = folder / "kubeconfig"
    with stage.claimed_ranges() as ranges:
        ours = ("--service-cidr", ranges.services, "--pod-cidr", ranges.pods)
        done = inside.run("simulate", *ours, "--kubeconfig-out", str(kubeconfig), *flags)
    (line,) = done.stderr.splitlines()
    assert not kubeconfig.exists()
    return done.returncode, line


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, line = failure(tmp_path, "--port", str(port))
    assert code == 1
    assert f"127.0.0.1:{port}" in line


@pytest.mark.parametrize(
    ("text", "expected", "words"),
    [
        pytest.param(None, 2, "no such file", id="missing"),
        pytest.param("a: [", 2, "not valid YAML", id="malformed"),
        pytest.param("- a\n", 2, "document 1 (line 1): it is not an object", id="a list"),
        pytest.param("{kind: Service, apiVersion: v1, metadata: 5}", 1, "metadata is not", id="?"),
        pytest.param(
            "{kind: Service, apiVersion: v1, metadata: {name: web}}",
            1,
            '(line 1): Service "web" is invalid: spec.ports: Required value; correct the manifest',
            id="invalid",
        ),
    ],
)
def test_a_manifest_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, text: str | None, expected: int, words: str
) -> None:
    manifest = tmp_path / "web.yaml"
    if text is not None:
        manifest.write_text(text)
    code, line = failure(tmp_path, "--apply", str(manifest))
    assert code == expected
    assert words in line


CONTENT = admin_kubeconfig.kubeconfig("https://127.0.0.1:1", "token", b"")


def test_what_is_not_ours_is_not_overwritten(tmp_path: Path) -> None:
    for name, text in (("mine", "current-context: prod\n"), ("notes", "hello")):
        (tmp_path / name).write_text(text)
        with (
            pytest.raises(errors.ConfigError, match="name another path"),
            kubeconfig_file.written(CONTENT, tmp_path / name),
        ):
            pass
        assert (tmp_path / name).read_text() == text
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with (
        pytest.raises(errors.ConfigError),
        kubeconfig_file.written(CONTENT, tmp_path / "link"),
    ):
        pass


def test_what_an_earlier_run_left_is_replaced_and_what_came_later_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(CONTENT))
    path.chmod(0o644)
    with kubeconfig_file.written(CONTENT, path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.write_text("another program's")
    assert path.read_text() == "another program's"
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_found_before_the_cluster_starts(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "kubeconfig"
    done = inside.run("simulate", "--kubeconfig-out", str(missing))
    assert done.returncode == errors.ConfigError.exit_code
    assert f"no such file or directory: {missing.parent}; make" in done.stderr
    assert "is up" not in done.stdout + done.stderr


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(errors.ConfigError, match="no such file or directory"),
        kubeconfig_file.written(CONTENT, tmp_path / "missing" / "kubeconfig"),
    ):
        pass
