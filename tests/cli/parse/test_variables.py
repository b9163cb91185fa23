"""Variables that are nearly settings are named; those of others are left alone."""

from pathlib import Path

import pytest

from kproxy import config, settings
from kproxy.cli.parse import variables
from tests.cli import inside

KNOWN = [row.variable for row in settings.table(config.Config)]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("KPROXY_IDLE_TIMEOUTS", "KPROXY_IDLE_TIMEOUT"),
        ("KPROXY_IDLETIMEOUT", "KPROXY_IDLE_TIMEOUT"),
        ("KPROXY_MANIFEST", "KPROXY_MANIFESTS"),
        ("KPROXY_STRATGEY", "KPROXY_STRATEGY"),
        ("KPROXY_MAX_CONECTIONS", "KPROXY_MAX_CONNECTIONS"),
    ],
)
def test_a_slip_is_named_with_what_was_meant(given: str, meant: str) -> None:
    (sentence,) = variables.misspelt(KNOWN, {given: "1", meant: "1", "PATH": "/bin"})

    assert given in sentence
    assert f"did you mean {meant}?" in sentence


@pytest.mark.parametrize(
    "name",
    [
        *("KPROXY_PORT", "KPROXY_SERVICE_HOST", "KPROXY_SERVICE_PORT_HTTP", "KPROXY_PORT_80_TCP"),
        *("KPROXY_PORT_80_TCP_ADDR", "KPROXY_METRICS_PORT", "KPROXY_METRICS_SERVICE_PORT"),
        *("KPROXY_HOME", "KPROXY_TEAM_NAME", "KPROXY_TEST_KUBECTL_DIR", "XKPROXY_MANIFEST", *KNOWN),
    ],
)
def test_other_variables_are_left_alone(name: str) -> None:
    assert list(variables.misspelt(KNOWN, {name: "1"})) == []


def test_the_configuration_shows_it() -> None:
    done = inside.run("config", "show", KPROXY_IDLE_TIMEOUTS="5s")

    assert done.returncode == 0
    assert "KPROXY_IDLE_TIMEOUTS is no setting" in done.stderr


def test_a_slip_may_be_why_there_is_nothing_to_serve(tmp_path: Path) -> None:
    unset = dict.fromkeys(("KPROXY_MANIFESTS", "KUBECONFIG", "KUBERNETES_SERVICE_HOST"), "")
    done = inside.run("run", KPROXY_MANIFEST="web.yaml", HOME=str(tmp_path), **unset)

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "did you mean KPROXY_MANIFESTS?" in done.stderr
