"""Credentials that outlive their tokens."""

import json
from pathlib import Path
from typing import Any

import pytest

from kproxy.sources.access import credentials, kubeconfig

V1 = "client.authentication.k8s.io/v1"


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def plugin(tmp_path: Path, script: str, **fields: Any) -> kubeconfig.User:
    """A user whose plugin is a shell script that may count its runs in the file `runs`."""
    path = tmp_path / "plugin"
    path.write_text(f"#!/bin/sh\ncd {tmp_path}\necho x >> runs\n{script}\n")
    path.chmod(0o755)
    return kubeconfig.User(exec_plugin=kubeconfig.ExecPlugin(str(path), V1, **fields))


def printing(status: dict[str, Any]) -> str:
    answer = {"apiVersion": V1, "kind": "ExecCredential", "status": status}
    return f"cat <<'END'\n{json.dumps(answer)}\nEND"


def runs(tmp_path: Path) -> int:
    return len((tmp_path / "runs").read_text().split())


def made(user: kubeconfig.User, clock: Clock) -> credentials.Credentials:
    return credentials.for_user(user, clock, clock)


async def test_a_plugin_is_run_again_before_its_token_expires_and_when_it_is_refused(
    tmp_path: Path,
) -> None:
    clock = Clock(0.0)
    status = {"token": "t0ken", "expirationTimestamp": "1970-01-01T01:00:00Z"}
    held = made(plugin(tmp_path, printing(status)), clock)
    first = await held.get()
    assert first.authorization == "Bearer t0ken"
    assert await held.get() == first
    assert runs(tmp_path) == 1
    clock.now = 3600 - credentials.EXPIRY_MARGIN_SECONDS + 1
    await held.get()
    assert runs(tmp_path) == 2
    clock.now = 0.0
    held.discard(first)
    await held.get()
    assert runs(tmp_path) == 3
    held.discard(credentials.Credential("Bearer another"))
    await held.get()
    assert runs(tmp_path) == 3
    assert "t0ken" not in repr(first)


async def test_a_plugin_gets_the_cluster_and_its_environment(tmp_path: Path) -> None:
    script = 'printf "%s" "$KUBERNETES_EXEC_INFO" > info; echo "$FLAVOUR $1" > flavour\n'
    status = {"clientCertificateData": "CERT", "clientKeyData": "KEY"}
    user = plugin(
        tmp_path,
        script + printing(status),
        args=("word",),
        env=(("FLAVOUR", "sweet"),),
        cluster_info='{"server":"https://a"}',
    )
    found = await made(user, Clock(0)).get()
    assert (found.authorization, found.certificate, found.key) == ("", b"CERT", b"KEY")
    info = json.loads((tmp_path / "info").read_text())
    assert info["spec"] == {"interactive": False, "cluster": {"server": "https://a"}}
    assert (tmp_path / "flavour").read_text() == "sweet word\n"


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("echo no such account >&2; exit 3", "failed with exit code 3: no such account"),
        ("echo hello", "printed no ExecCredential"),
        (printing({}), "gave neither a token nor a client certificate"),
        (printing({"clientCertificateData": "C"}), "without its key"),
        (printing({"token": 5}), "printed no ExecCredential"),
        (printing({"token": "t"}).replace(V1, "v0"), "not the client.authentication.k8s.io/v1"),
        ("sleep 600 & sleep 600", "gave no answer within 0.3 s"),
    ],
)
async def test_a_plugin_that_fails_is_an_error(
    tmp_path: Path, script: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "PLUGIN_SECONDS", 0.3 if "sleep" in script else 30.0)
    with pytest.raises(credentials.CredentialsError) as caught:
        await made(plugin(tmp_path, script), Clock(0)).get()
    assert sentence in str(caught.value)


async def test_a_plugin_that_is_not_there_comes_with_its_hint() -> None:
    missing = kubeconfig.ExecPlugin("no-such-plugin-here", V1, install_hint="get it at X")
    with pytest.raises(credentials.CredentialsError, match=r"no such file.*; get it at X"):
        await made(kubeconfig.User(exec_plugin=missing), Clock(0)).get()


async def test_much_talk_of_a_plugin_does_no_harm(tmp_path: Path) -> None:
    script = "head -c 3000000 /dev/zero >&2\n" + printing({"token": "t"})
    assert (await made(plugin(tmp_path, script), Clock(0)).get()).authorization == "Bearer t"


async def test_a_rotated_token_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one\n")
    clock = Clock(100.0)
    held = made(kubeconfig.User(token_file=path), clock)
    first = await held.get()
    assert first.authorization == "Bearer one"
    path.write_text("two")
    assert await held.get() == first
    clock.now += credentials.FILE_SECONDS
    assert (await held.get()).authorization == "Bearer two"
    path.write_text("three")
    held.discard(await held.get())
    assert (await held.get()).authorization == "Bearer three"
    held.discard(await held.get())
    path.write_text(" \n")
    with pytest.raises(credentials.CredentialsError, match="is empty"):
        await held.get()
    path.unlink()
    with pytest.raises(credentials.CredentialsError, match=r"no credentials: .*cannot read"):
        await held.get()


async def test_basic_authentication() -> None:
    held = made(kubeconfig.User(basic=("u", "p")), Clock(0))
    assert (await held.get()).authorization == "Basic dTpw"
