"""`kproxy get` against a proxy in a process of its own."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kproxy import __version__
from kproxy.cli.parse import completion
from tests import kubectl
from tests.cli import inside
from tests.e2e.rig import daemon, manifests, resolving, sockets

ROOT = Path(__file__).parents[2]


class Lab:
    """A proxy that serves `default/web` on two endpoints, one dead, and `prod/empty` on none."""

    def __init__(
        self, served: daemon.Daemon, listening: socket.socket, clients: list[socket.socket]
    ) -> None:
        self.daemon = served
        self.listening = listening
        self.pod: manifests.Address = listening.getsockname()
        self.clients = clients
        self.control = served.ready["control"]

    def get(self, *arguments: str, control: str | None = None) -> subprocess.CompletedProcess[str]:
        """`kproxy get ARGUMENTS`."""
        return call(*arguments, "--control", control or self.control)

    def penalized(self) -> list[str]:
        """The addresses of the endpoints that are avoided at the moment."""
        told = json.loads(self.get("ep", "web", "-o", "json").stdout)["items"]
        return [each["address"] for each in told if each["penalized_until"] is not None]

    def table(self, *arguments: str) -> list[list[str]]:
        """The cells of what it prints. No cell has a space in it here, unless -o wide."""
        done = self.get(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return [line.split() for line in done.stdout.splitlines()]


def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`kproxy get ARGUMENTS` in an environment that has these variables too."""
    return inside.run("get", *arguments, **environment)


def odd() -> list[dict[str, Any]]:
    """A Service whose endpoint is on a node with a name that would colour the terminal."""
    endpoints = manifests.endpoints("odd", [("10.9.9.9", 80)])
    endpoints["subsets"][0]["addresses"][0]["nodeName"] = "\x1b[31mnode"
    cluster_ip = manifests.fresh_ip()
    service = manifests.service(
        "odd",
        cluster_ip,
        manifests.PORT,
        clusterIPs=[cluster_ip, "fd00:10:96::b"],
        type="LoadBalancer",
        externalTrafficPolicy="Local",
        healthCheckNodePort=manifests.free_port("127.0.0.1"),
        loadBalancerSourceRanges=["192.0.2.0/24", "198.51.100.0/24"],
    )
    addresses = [{"ip": manifests.fresh_ip()} for _ in range(6)]
    service["status"] = {"loadBalancer": {"ingress": addresses}}
    objects = [service, endpoints]
    for each in objects:
        each["metadata"]["namespace"] = "odd"
    return objects


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("get")
    empty = manifests.service("empty", manifests.fresh_ip(), manifests.PORT)
    empty["metadata"]["namespace"] = "prod"
    with sockets.backend(manifests.fresh_ip(127)) as pod:
        dead = manifests.fresh_ip(127)
        web = manifests.service(
            "web", manifests.fresh_ip(), manifests.PORT, sessionAffinity="ClientIP"
        )
        web["metadata"]["labels"] = {"tier": "front"}
        path = manifests.write(
            folder / "objects.yaml",
            web,
            manifests.endpoints("web", [pod.getsockname(), (dead, manifests.free_port(dead))]),
            empty,
            *odd(),
        )
        places = ("--healthz-bind-address", "", "--metrics-bind-address", "")
        control = ("--control", str(folder / "control.sock"))
        with (
            daemon.running(folder, path, *places, *control) as served,
            contextlib.ExitStack() as ends,
        ):
            clients = []
            for _ in range(2):
                client = sockets.connect(served.address("web"))
                clients.append(ends.enter_context(contextlib.closing(client)))
                ends.enter_context(contextlib.closing(sockets.accept(pod)))
            yield Lab(served, pod, clients)


def test_services_of_namespace_default_are_tabulated(lab: Lab) -> None:
    def shown() -> dict[str, str]:
        heading, row = lab.table("services")
        return dict(zip(heading, row, strict=True))

    web = shown()
    bound = ":".join(map(str, lab.daemon.address("web")))
    assert (web["NAME"], web["PORT"], web["BOUND"]) == ("web", f"{manifests.PORT}/TCP", bound)
    assert (web["STATE"], web["ACTIVE"]) == ("bound", "2")
    # One is dead, if it was tried. A probe of it may come between the two looks.
    daemon.wait_until(
        lambda: shown()["ENDPOINTS"] == f"{2 - len(lab.penalized())}/2", "the endpoints in use"
    )


def test_all_namespaces_come_with_their_names(lab: Lab) -> None:
    heading, *rows = lab.table("svc", "-A")

    assert heading[:2] == ["NAMESPACE", "NAME"]
    assert [row[:2] for row in rows] == [["default", "web"], ["odd", "odd"], ["prod", "empty"]]
    assert lab.table("svc", "-n", "prod")[1][0] == "empty"


def test_wide_shows_more(lab: Lab) -> None:
    done = lab.get("services", "-A", "-o", "wide")

    assert "ClientIP 3h" in done.stdout
    assert "round-robin" in done.stdout
    assert "connections are refused" in done.stdout


def test_json_is_a_list_of_what_the_ready_file_says_and_more(lab: Lab) -> None:
    told = json.loads(lab.get("services", "-A", "-o", "json").stdout)

    assert (told["apiVersion"], told["kind"]) == ("v1", "List")
    ready = lab.daemon.ready["services"]
    for item, view in zip(told["items"], ready, strict=True):
        assert list(view) == [key for key in item if key in view]
        assert item["frontends"] == view["frontends"]
        assert item["apiVersion"] == "kproxy.io/v1"
        assert (item["kind"], item["metadata"]["name"]) == ("Service", view["name"])
        assert item["metadata"]["namespace"] == view["namespace"]
    assert told["items"][0]["connections"] == {"active": 2, "total": 2}
    assert told["items"][0]["metadata"]["labels"] == {"tier": "front"}


def test_yaml_and_names_say_the_same(lab: Lab) -> None:
    def are_the_same() -> bool:
        as_json = json.loads(lab.get("services", "-o", "json").stdout)
        as_yaml: object = yaml.safe_load(lab.get("services", "-o", "yaml").stdout)
        return bool(as_yaml == as_json)

    # A probe of the dead endpoint may come between the two.
    daemon.wait_until(are_the_same, "the same in both notations")
    assert lab.get("svc,ep", "-o", "name").stdout == "service/web\nendpoints/web\n"


def test_jsonpath_and_columns_of_ones_own(lab: Lab) -> None:
    template = '{range .items[*]}{.metadata.name}={.port}{"\\n"}{end}'

    assert lab.get("svc", "-A", f"-ojsonpath={template}").stdout == (
        f"web={manifests.PORT}\nodd={manifests.PORT}\nempty={manifests.PORT}\n"
    )
    assert lab.table("svc/web", "-o=custom-columns=WHO:.metadata.name,NOT:.nope") == [
        ["WHO", "NOT"],
        ["web", "<none>"],
    ]
    nothing = lab.get("svc", "web", "-o", "jsonpath={.metadata.name}")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "start it at the List" in nothing.stderr
    wrong = lab.get("svc", "-o", "jsonpath={.items[99]}")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "array index out of bounds" in wrong.stderr


def test_names_are_given_as_kubectl_takes_them(lab: Lab) -> None:
    for arguments in (["svc/web"], ["service", "web"], ["services", "svc/web"], ["SVC", "web"]):
        assert lab.table(*arguments)[1][0] == "web"
    together = lab.get("svc,ep", "--no-headers").stdout
    services, endpoints = together.split("\n\n")
    assert services.split()[0] == "service/web"
    assert [line.split()[0] for line in endpoints.splitlines()] == ["endpoints/web"] * 2
    one_missing = lab.get("svc", "web", "nope", "neither", "--no-headers")
    assert one_missing.returncode == 1
    assert one_missing.stdout.split()[0] == "web"
    assert [line.split('"')[1] for line in one_missing.stderr.splitlines()] == ["nope", "neither"]
    assert lab.get("svc", "nope", "--ignore-not-found").returncode == 0


def test_labels_select_services(lab: Lab) -> None:
    assert lab.table("svc", "-A", "-l", "tier=front", "--no-headers")[0][1] == "web"
    assert len(lab.table("ep", "-l", "tier in (front)", "--no-headers")) == 2
    assert lab.table("svc", "-l", "!tier", "-A", "--no-headers", "--show-labels")[0][-1] == "<none>"
    wrong = lab.get("svc", "-l", "tier in")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "-l tier in" in wrong.stderr


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("-A=true --no-headers=true", "-A --no-headers"),
        ("-A=false --all-namespaces=F", ""),
        ("--no-headers --no-headers=false", ""),
        ("--no-headers=false --no-headers", "--no-headers"),
        ("-An=prod", "-A -n prod"),
        ("-nprod", "--namespace prod"),
        ("-n=prod", "--namespace=prod"),
        ("-l=tier=front -A=1", "-l tier=front -A"),
        ("nosuch --ignore-not-found=true", "nosuch --ignore-not-found"),
        ("-n=prod -- empty", "empty -n prod"),
    ],
)
def test_flags_are_read_as_kubectl_reads_them(lab: Lab, written: str, meant: str) -> None:
    # Columns whose values do not change while the test looks twice. What follows "--" is no
    # option, so that all others stand before.
    command = ["svc", "--control", lab.control, "-o=custom-columns=NS:.namespace,N:.metadata.name"]
    first, second = (call(*command, *flags.split()) for flags in (written, meant))

    assert (first.returncode, first.stderr) == (0, second.stderr)
    assert first.stdout == second.stdout


@pytest.mark.parametrize("flags", ["-Ao=name", "-Aoname", "-Ao name", "-A -o=name"])
def test_short_flags_may_stand_in_one_word(lab: Lab, flags: str) -> None:
    every = lab.get("svc", "--all-namespaces", "--output", "name").stdout

    assert "service/empty" in every
    assert lab.get("svc", *flags.split()).stdout == every


@pytest.mark.parametrize("text", ["true", "TRUE", "True", "T", "t", "1", "yes", "tRUE", "on", ""])
def test_kubectl_takes_the_same_words_for_a_truth_value(
    lab: Lab, tmp_path: Path, text: str
) -> None:
    theirs = kubectl.Kubectl(kubectl.newest(), tmp_path).run("version", f"--client={text}")

    ours = lab.get("svc", f"--no-headers={text}").returncode
    assert (ours == 0) is (theirs.returncode == 0)


@pytest.mark.parametrize("format_", ["json", "yaml", "jsonpath={.kind}", "wide", "name"])
def test_one_service_that_is_not_served_leaves_the_output_empty(lab: Lab, format_: str) -> None:
    missing = lab.get("svc", "nosuch", "-o", format_)
    ignored = lab.get("svc", "nosuch", "-o", format_, "--ignore-not-found")

    assert (missing.returncode, missing.stdout) == (1, "")
    assert (ignored.returncode, ignored.stdout, ignored.stderr) == (0, "", "")


def test_sorted_by_a_field(lab: Lab) -> None:
    rows = lab.table("svc", "-A", "--no-headers", "--sort-by", ".metadata.name")
    assert [row[1] for row in rows] == ["empty", "odd", "web"]


def test_tables_fit_100_columns_without_colours_in_a_pipe(lab: Lab) -> None:
    for resource in ("services", "endpoints", "affinity", "connections"):
        shown = lab.get(resource, "-A").stdout
        assert max(map(len, shown.splitlines())) <= 100
        assert "\x1b" not in shown


def test_a_watch_goes_on_until_it_is_interrupted(lab: Lab) -> None:
    command = [sys.executable, "-m", "kproxy", "get", "conn", "-w", "--control", lab.control]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        lines = iter(watch.stdout.readline, "")
        try:
            assert next(lines).split()[:2] == ["SERVICE", "CLIENT"]
            assert {next(lines).split()[0] for _ in lab.clients} == {"web"}
            with contextlib.closing(sockets.connect(lab.daemon.address("web"))) as another:
                name = ":".join(map(str, another.getsockname()))
                assert name in next(lines)
                sockets.accept(lab.listening).close()
        finally:
            watch.send_signal(signal.SIGINT)
        assert watch.wait(20) == 130
    daemon.wait_until(
        lambda: len(lab.table("conn", "--no-headers")) == len(lab.clients), "the other's end"
    )


def test_a_watch_without_the_list_says_what_came_and_what_went(lab: Lab) -> None:
    flags = ["--watch-only", "--output-watch-events", "--no-headers", "-o", "wide"]
    command = [sys.executable, "-m", "kproxy", "get", "conn", *flags, "--control", lab.control]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        found: dict[str, list[str]] = {}
        lines = ""
        try:
            while not any((each[0], each[-1]) == ("ADDED", "DELETED") for each in found.values()):
                # The watch may not have begun when the first of these connections comes.
                with contextlib.closing(sockets.connect(lab.daemon.address("web"))):
                    if select.select([watch.stdout], [], [], 0.2)[0]:
                        lines += os.read(watch.stdout.fileno(), 65536).decode()
                    sockets.accept(lab.listening).close()
                found = {}
                for line in lines.splitlines()[: lines.count("\n")]:
                    change, _, client, *_ = line.split()
                    found.setdefault(client.rpartition(":")[2], []).append(change)
        finally:
            watch.send_signal(signal.SIGINT)
        assert watch.wait(20) == 130
    there_before = [found.get(str(each.getsockname()[1]), []) for each in lab.clients]
    assert not any("ADDED" in each for each in there_before)


def test_events_are_followed_while_they_happen(lab: Lab) -> None:
    command = [sys.executable, "-m", "kproxy", "get", "events", "-w", "-o", "json"]
    command = [*command, "--control", lab.control]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        found: list[str] = []
        try:
            while "ConnectionEnded" not in "".join(found):
                # The watch may not have begun when the first of these connections comes.
                with contextlib.closing(sockets.connect(lab.daemon.address("web"))):
                    sockets.accept(lab.listening).close()
                if select.select([watch.stdout], [], [], 0.1)[0]:
                    found.append(os.read(watch.stdout.fileno(), 65536).decode())
        finally:
            watch.send_signal(signal.SIGINT)
        assert watch.wait(20) == 130
    first, _ = json.JSONDecoder().raw_decode("".join(found))
    assert (first["kind"], first["metadata"]["name"]) == ("Event", "web")
    daemon.wait_until(
        lambda: len(lab.table("conn", "--no-headers")) == len(lab.clients), "the others' end"
    )


def test_events_show_what_happened_lately(lab: Lab) -> None:
    heading, *rows = lab.table("events", "svc/web")
    assert heading == ["AGE", "TIME", "REASON", "SERVICE", "DETAILS"]
    assert [row[2] for row in rows[:3]] == ["ServiceChanged", "EndpointsChanged", "FrontendOpened"]
    # Its dead endpoint may be boxed by now, which concerns each Service that has it.
    of_endpoints = {"EndpointBoxed", "EndpointReleased"}
    assert {row[3] for row in rows if row[2] not in of_endpoints} == {"web"}
    assert lab.get("ev", "nope").returncode == 1
    done = lab.get("events", "-l", "tier=front")
    assert (done.returncode, "no labels" in done.stderr) == (2, True)


def test_a_watch_ends_with_the_proxy(tmp_path: Path) -> None:
    path = manifests.write(
        tmp_path / "a.yaml", manifests.service("a", manifests.fresh_ip(), manifests.PORT)
    )
    control = tmp_path / "control.sock"
    flags = ("--healthz-bind-address", "", "--metrics-bind-address", "", "--control", str(control))
    with daemon.running(tmp_path, path, *flags) as served:
        arguments = ["get", "svc", "-w", "-o", "name", "--control", str(control)]
        with subprocess.Popen(
            [sys.executable, "-m", "kproxy", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as watch:
            assert watch.stdout is not None
            assert watch.stdout.readline() == "service/a\n"
            served.stop()
            _, said = watch.communicate(timeout=30)

    assert watch.returncode == 1
    assert said == f"kproxy: the kproxy at {control} has ended, and the watch with it\n"


def test_endpoints_show_what_each_of_them_got(lab: Lab) -> None:
    heading, *rows = lab.table("endpoints", "svc/web", "-o", "wide")

    shown = [dict(zip(heading, row, strict=True)) for row in rows]
    (pod,) = [row for row in shown if row["ADDRESS"] == ":".join(map(str, lab.pod))]
    assert int(pod["TOTAL"]) >= 2
    assert pod["ACTIVE"] == "2"
    assert pod["SHARE"] == "100.0%"
    assert {"TOTAL", "ACTIVE", "FAILURES", "SHARE"} < set(heading)


def test_endpoints_show_which_one_is_avoided(lab: Lab) -> None:
    heading, *rows = lab.table("endpoints", "web")

    assert heading == ["SERVICE", "PORT-NAME", "ADDRESS", "READY", "IN-USE", "PENALIZED"]
    address = ":".join(map(str, lab.pod))
    assert ["web", "<none>", address, "true", "true", "<none>"] in rows
    assert len(rows) == 2
    (view, _) = json.loads(lab.get("ep", "-o", "json").stdout)["items"]
    assert list(view) == [
        *("apiVersion", "kind", "metadata"),
        *("namespace", "service", "port_name", "protocol", "address", "port"),
        *("ready", "serving", "terminating", "node", "pod", "weight", "in_use"),
        "penalized_until",
        *("own_address_of", "connections"),
    ]


def test_a_service_is_described_with_its_endpoints(lab: Lab) -> None:
    done = inside.run("describe", "svc/web", "--control", lab.control)

    assert (done.returncode, done.stderr) == (0, "")
    about, _, events = done.stdout.partition("\nEvents:\n")
    assert events.split()[:4] == ["AGE", "REASON", "PORT-NAME", "DETAILS"]
    assert "FrontendOpened" in events
    lines = about.splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line and line[0] != " ")
    assert (fields["Name"].strip(), fields["Labels"].strip()) == ("web", "tier=front")
    assert fields["Session Affinity"].strip() == "ClientIP 3h"
    bound = ":".join(map(str, lab.daemon.address("web")))
    assert any(line.split()[:1] == ["cluster-ip"] and bound in line for line in lines)
    address = ":".join(map(str, lab.pod))
    (row,) = [line.split() for line in lines if address in line]
    assert (row[1], row[3], row[-1]) == ("true", "2", "<none>")
    missing = inside.run("describe", "service", "nope", "--control", lab.control)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert '"nope" not found' in missing.stderr
    assert inside.run("describe", "ep/web", "--control", lab.control).returncode == 2


def test_a_description_has_every_address_and_range_of_a_service(lab: Lab) -> None:
    done = inside.run("describe", "svc", "odd", "-n", "odd", "--control", lab.control)

    asked = odd_service(lab)
    for line in (
        "IP Families:      IPv4,IPv6",
        f"IP:               {asked['cluster_ip']}",
        f"IPs:              {asked['cluster_ip']},fd00:10:96::b",
        f"Health Check:     node port {asked['health_check_node_port']}",
        "Source Ranges:    192.0.2.0/24,198.51.100.0/24",
    ):
        assert line in done.stdout.splitlines()
    one = inside.run("describe", "svc", "web", "--control", lab.control).stdout
    assert "IP Families:      IPv4\n" in one
    assert "Health Check" not in one
    assert "Source Ranges" not in one


def test_events_of_each_reason_are_described(lab: Lab) -> None:
    """More addresses than that were opened since the Service came."""
    done = inside.run("describe", "svc", "odd", "-n", "odd", "--control", lab.control)

    reasons = [line.split()[1] for line in done.stdout.partition("\nEvents:\n")[2].splitlines()]
    assert reasons.count("FrontendOpened") == 4
    assert {"ServiceChanged", "EndpointsChanged"} <= set(reasons)


def odd_service(lab: Lab) -> dict[str, Any]:
    """The Service `odd`, as `kproxy get` has it."""
    (view,) = json.loads(lab.get("svc", "odd", "-n", "odd", "-o", "json").stdout)["items"]
    assert isinstance(view, dict)
    return view


def test_why_an_endpoint_is_not_used(lab: Lab) -> None:
    def described() -> str:
        done = inside.run("describe", "svc", "web", "odd", "-A", "--control", lab.control)
        return done.stdout

    def is_said_of_the_dead() -> bool:
        lines = described().splitlines()
        dead = [line for line in lines if "failed a dial, avoided for" in line]
        return len(dead) == len(lab.penalized())

    about = described()
    assert "Name:             odd" in about
    assert "\x1b" not in about
    # A probe of the dead endpoint may come between the two looks.
    daemon.wait_until(is_said_of_the_dead, "the reason with each endpoint that is avoided")


def test_how_the_proxy_is_on_one_screen(lab: Lab) -> None:
    done = inside.run("status", "--control", lab.control)

    assert (done.returncode, done.stderr) == (0, "")
    assert f"ready, version {__version__}, process {lab.daemon.pid}" in done.stdout
    assert "3 with 3 ports" in done.stdout
    as_json = json.loads(inside.run("status", "-o", "json", "--control", lab.control).stdout)
    assert as_json["frontends"]["bound"] >= 1
    as_yaml = yaml.safe_load(inside.run("status", "-o", "yaml", "--control", lab.control).stdout)
    assert as_yaml.keys() == as_json.keys()
    pid = inside.run("status", "-o", "jsonpath={.pid}", "--control", lab.control).stdout
    assert pid == str(lab.daemon.pid)


@pytest.mark.parametrize("command", ["status", "version", "explain web"])
@pytest.mark.parametrize("format_", ["xml", "wide", "jsonpath={", "json=x"])
def test_a_format_that_is_none_is_refused_before_anything_is_asked(
    command: str, format_: str, tmp_path: Path
) -> None:
    done = inside.run(*command.split(), "-o", format_, XDG_RUNTIME_DIR=str(tmp_path))

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"kproxy: -o {format_}")
    assert len(done.stderr.splitlines()) == 1


def test_services_are_described_by_their_labels(lab: Lab) -> None:
    def described(*flags: str) -> subprocess.CompletedProcess[str]:
        return inside.run("describe", "svc", "--control", lab.control, *flags)

    chosen = described("-A", "-l", "tier in (front)").stdout.splitlines()
    assert [line.split()[1] for line in chosen if line.startswith("Name:")] == ["web"]
    assert described("-l", "tier=none").stderr == "No resources found in default namespace.\n"
    for wrong in (["-l", "tier in"], ["web", "-l", "tier=front"]):
        done = described(*wrong)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def test_kubectl_finds_it_as_a_plugin(lab: Lab, tmp_path: Path) -> None:
    program = kubectl.newest()
    with (ROOT / "pyproject.toml").open("rb") as file:
        entry = tomllib.load(file)["project"]["scripts"]["kubectl-kproxy"]
    module, _, function = entry.partition(":")
    plugin = tmp_path / "kubectl-kproxy"
    plugin.write_text(f"#!{sys.executable}\nfrom {module} import {function}\n{function}()\n")
    plugin.chmod(0o755)

    done = subprocess.run(
        [program, "kproxy", "get", "svc", "-o", "name", "--control", lab.control],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
    )

    assert (done.stdout, done.returncode) == ("service/web\n", 0)


def offered(line: str, runtime: Path) -> list[str]:
    """What bash is offered for the last word of a line; behind a blank that is a new one."""
    words = line.split(" ")
    completing = {
        "_KPROXY_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
        "XDG_RUNTIME_DIR": str(runtime),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(completion, "PATIENCE", 60.0)  # this machine may stop for seconds
        done = inside.run(**completing)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("kproxy get s", ["services"]),
        ("kproxy get svc,e", ["svc,endpoints", "svc,events"]),
        ("kproxy get svc w", ["web"]),
        ("kproxy get svc ", ["web"]),
        ("kproxy get svc web ", []),
        ("kproxy get ep -A ", ["empty", "odd", "web"]),
        ("kproxy get --no-headers svc -n prod ", ["empty"]),
        ("kproxy get svc -n ", ["default", "odd", "prod"]),
        ("kproxy get svc/w", ["svc/web"]),
        ("kproxy get -n odd svc/o", ["svc/odd"]),
        ("kproxy get nosuch ", []),
        ("kproxy get nosuch/", []),
        ("kproxy get svc -o j", ["json", "jsonpath=", "jsonpath-file="]),
        ("kproxy describe ", ["services"]),
        ("kproxy describe svc w", ["web"]),
        ("kproxy explain w", ["web"]),
        ("kproxy explain prod/", ["prod/empty"]),
        ("kproxy explain web --as n", ["nftables"]),
        ("kproxy status -o y", ["yaml"]),
        ("kproxy run --portal l", ["loopback", "local"]),
        ("kproxy config show --portal l", ["loopback", "local"]),
        ("kproxy demo s", ["shop"]),
    ],
)
def test_a_shell_is_offered_what_may_stand_there(
    lab: Lab, tmp_path: Path, line: str, expected: list[str]
) -> None:
    (tmp_path / "kproxy.sock").symlink_to(lab.control)

    assert offered(line, tmp_path) == expected


def test_a_shell_is_offered_no_names_without_a_proxy(lab: Lab, tmp_path: Path) -> None:
    assert offered("kproxy get svc ", tmp_path) == []
    assert offered(f"kproxy get svc --control {lab.control} ", tmp_path) == ["web"]


@pytest.mark.parametrize("name", ["a\x1b[31m", "ä\nb", "\udcff", "a b&name=web"])
def test_an_odd_name_is_not_served_and_cannot_drive_the_terminal(lab: Lab, name: str) -> None:
    missing = lab.get("svc", name)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr.startswith('kproxy: service "')
    empty = lab.get("svc", "-n", name)
    assert (empty.returncode, empty.stdout) == (0, "")
    assert empty.stderr.startswith("No resources found in ")
    for done in (missing, empty):
        (line,) = done.stderr.splitlines()
        assert line.isprintable()


def test_a_name_cannot_drive_the_terminal(lab: Lab) -> None:
    done = lab.get("endpoints", "-n", "odd", "-o", "wide")

    assert "\\x1b[31mnode" in done.stdout
    assert "\x1b" not in done.stdout


def test_affinity_shows_where_a_client_goes(lab: Lab) -> None:
    _, row = lab.table("affinity")

    assert row[:4] == ["web", "<none>", "127.0.0.1", ":".join(map(str, lab.pod))]


def test_connections_are_listed_one_by_one(lab: Lab) -> None:
    _, *rows = lab.table("connections", "-A")

    address = ":".join(map(str, lab.pod))
    clients = {":".join(map(str, each.getsockname())) for each in lab.clients}
    assert {tuple(row[:5]) for row in rows} == {
        ("default", "web", client, address, "open") for client in clients
    }
    assert all(row[5].endswith("s") or "m" in row[5] for row in rows), "an age"
    wide = lab.table("connections", "-o", "wide", "--no-headers")
    assert {tuple(row[-2:]) for row in wide} == {("0", "0")}, "bytes"


def test_a_reader_that_leaves_ends_it_in_silence(lab: Lab) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "kproxy", "get", "svc", "--control", lab.control]
    with os.fdopen(writer, "wb") as gone:
        done = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, timeout=60, check=False)

    assert done.returncode == -signal.SIGPIPE
    assert done.stderr == b""


def test_a_service_that_is_not_there_is_one_sentence(lab: Lab) -> None:
    done = lab.get("services", "nope")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith('kproxy: service "nope" not found in namespace default')
    assert len(done.stderr.splitlines()) == 1


def test_nothing_to_show_is_no_failure(lab: Lab) -> None:
    done = lab.get("services", "-n", "empty")

    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "No resources found in empty namespace.\n"
    assert json.loads(lab.get("services", "-n", "empty", "-o", "json").stdout)["items"] == []


def test_without_a_proxy_it_says_where_it_looked(tmp_path: Path) -> None:
    done = call("services", XDG_RUNTIME_DIR=str(tmp_path))

    assert (done.returncode, done.stdout) == (1, "")
    assert f"{tmp_path}/kproxy.sock" in done.stderr
    assert "--control" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param([], ["RESOURCE"], id="nothing to get"),
        pytest.param(["pods"], ["pods", "services", "endpoints", "affinity"], id="no resource"),
        pytest.param(["svc", "-o", "xml"], ["xml", "table", "wide", "yaml"], id="no format"),
        pytest.param(["svc", "-o", "jsonpath={.x"], ["unclosed action"], id="a broken template"),
        pytest.param(["svc", "-o", "jsonpath="], ["template"], id="an empty template"),
        pytest.param(["svc", "-o", "custom-columns=X"], ["HEADING:PATH"], id="no column"),
        pytest.param(["svc/"], ["svc/", "RESOURCE/NAME"], id="no name"),
        pytest.param(["svc/web", "ep"], ["ep has no resource"], id="a name without resource"),
        pytest.param(["svc,ep", "-w"], ["--watch", "one resource"], id="a watch on two"),
        pytest.param(["svc", "--control", ""], ["--control", "empty"], id="an empty path"),
        pytest.param([""], ["a resource has no name", "svc/web"], id="an empty resource"),
        pytest.param(["svc", "web", "-l", "a=b"], ["-l", "without a name"], id="name and label"),
        pytest.param(["svc/web", "-l", "a=b"], ["-l", "without a name"], id="svc/name and label"),
        pytest.param(
            ["svc", "--output-watch-events"], ["--output-watch-events", "--watch"], id="no watch"
        ),
        pytest.param(
            ["svc", "--no-headers=maybe"], ["--no-headers=maybe", "true or false"], id="no truth"
        ),
        pytest.param(["svc", "-o"], ["'-o'", "kproxy get --help"], id="an option without value"),
        pytest.param(["svc", "--context", "prod"], ["--context", "--control"], id="a context"),
        pytest.param(["svc", "--kubeconfig=x"], ["--kubeconfig", "--control"], id="a kubeconfig"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(arguments: list[str], said: list[str]) -> None:
    done = call(*arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert [word for word in said if word not in done.stderr] == []


def test_a_second_proxy_does_not_take_the_first_ones_socket(lab: Lab, tmp_path: Path) -> None:
    path = manifests.write(tmp_path / "none.yaml", manifests.service("x", manifests.fresh_ip(), 80))
    flags = ("--control", lab.control, "--healthz-bind-address", "", "--metrics-bind-address", "")

    with daemon.running(tmp_path, path, *flags, await_ready=False) as second:
        assert second.wait() == 1

        (told,) = second.log_lines("kproxy: ")
        assert lab.control in told
        assert f"process {lab.daemon.pid} listens there" in told
    assert lab.get("services").returncode == 0


def test_of_two_proxies_on_the_default_socket_both_serve_and_the_first_answers(
    tmp_path: Path,
) -> None:
    first_ip, second_ip = manifests.fresh_ip(), manifests.fresh_ip()
    path = manifests.write(
        tmp_path / "1.yaml", manifests.service("first", first_ip, manifests.PORT)
    )
    other = manifests.write(
        tmp_path / "2.yaml", manifests.service("second", second_ip, manifests.PORT)
    )
    private = tmp_path / "runtime"
    private.mkdir(mode=0o700)
    wrapper = ("/usr/bin/env", f"XDG_RUNTIME_DIR={private}")
    flags = ("--healthz-bind-address", "", "--metrics-bind-address", "")

    with (
        daemon.running(tmp_path / "a", path, *flags, wrapper=wrapper) as first,
        daemon.running(tmp_path / "b", other, *flags, wrapper=wrapper) as second,
    ):
        assert first.ready["control"] == f"{private}/kproxy.sock"
        assert second.ready["control"] is None
        assert second.wait_logged("warning", "control unavailable", f"process {first.pid}")
        shown = call("svc", "-o", "json", XDG_RUNTIME_DIR=str(private))
        assert [view["name"] for view in json.loads(shown.stdout)["items"]] == ["first"]
    assert list(private.iterdir()) == []


def test_hosts_are_lines_of_a_hosts_file(lab: Lab) -> None:
    done = lab.get("hosts")
    prod = lab.get("hosts", "-n", "prod", "--no-headers")
    everything = lab.get("hosts", "-A", "-n", "prod", "--no-headers")

    address, _ = lab.daemon.address("web")
    of_empty, _ = lab.daemon.address("empty")
    of_odd, _ = lab.daemon.address("odd")
    names = "web.default.svc.cluster.local web.default.svc web.default"
    of_prod = "empty.prod.svc.cluster.local empty.prod.svc empty.prod empty"
    of_others = "odd.odd.svc.cluster.local odd.odd.svc odd.odd"
    comments, line = done.stdout.splitlines()[:-1], done.stdout.splitlines()[-1]
    assert all(each.startswith("# ") for each in comments)
    assert "kproxy get hosts -n default" in comments[1]
    assert line == f"{address}\t{names} web"
    assert prod.stdout == f"{of_empty}\t{of_prod}\n"
    assert everything.stdout.splitlines() == [
        f"{address}\t{names}",
        f"{of_odd}\t{of_others}",
        f"{of_empty}\t{of_prod}",
    ]


@pytest.mark.extra
@resolving.needs_root
def test_the_c_library_finds_a_service_by_each_of_its_names(lab: Lab, tmp_path: Path) -> None:
    """glibc reads the lines as /etc/hosts, in a mount namespace of its own."""
    hosts = tmp_path / "hosts"
    hosts.write_text(lab.get("hosts").stdout)
    names = ["web", "web.default", "web.default.svc", "web.default.svc.cluster.local"]
    script = 'mount --bind "$0" /etc/hosts && getent hosts "$@"'

    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, str(hosts), *names],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )

    address, _ = lab.daemon.address("web")
    found = [line.split()[0] for line in done.stdout.splitlines()]
    assert (found, done.stderr) == ([address] * len(names), "")


def test_hosts_as_objects_and_as_a_table(lab: Lab) -> None:
    table = lab.get("hosts", "-o", "json")
    wide = lab.get("hosts", "-o", "wide", "-A")

    (item,) = json.loads(table.stdout)["items"]
    assert (item["kind"], item["hostnames"][-1], item["ports"][0]["bound_port"]) == (
        "Host",
        "web",
        manifests.PORT,
    )
    assert wide.stdout.split()[:4] == ["NAMESPACE", "SERVICE", "ADDRESS", "HOSTNAMES"]


def test_hosts_of_an_unknown_service_are_an_error(lab: Lab) -> None:
    done = lab.get("hosts", "nothing")

    assert done.returncode == 1
    assert done.stderr.startswith('kproxy: service "nothing" not found in namespace default')
