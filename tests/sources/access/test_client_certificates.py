"""Client certificates over TLS: as data, as files that are rotated, and from a plugin (K20)."""

import base64
import contextlib
import json
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kproxy.sources.access import credentials, kubeconfig
from kproxy.sources.api import client
from kproxy.sources.api.decisions import progress
from tests.sources.access import tls
from tests.sources.api.rig import fake_api, following
from tests.sources.api.rig.fake_api import SERVICES, SLICES

V1 = "client.authentication.k8s.io/v1"


class Lab:
    """A server that knows the clients `old` and `new`, and what a client needs to reach it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority, self.key_of_server = tls.certificate(folder, "server")
        self.clients = {name: tls.certificate(folder, name) for name in ("old", "new")}
        self.api = fake_api.FakeApi(identity="old")
        fake_api.serve_web(self.api, "10.1.0.1")
        self.certificate, self.key = folder / "client.crt", folder / "client.key"
        self.install("old")
        self.plugin = folder / "plugin"
        self.plugin.write_text(f"#!/bin/sh\ncat {folder}/answer\n")
        self.plugin.chmod(0o755)

    def install(self, name: str) -> None:
        """Put the certificate and key of `name` where the client looks for its own."""
        for source, target in zip(self.clients[name], (self.certificate, self.key), strict=True):
            shutil.copy(source, target)

    def refuse_all_but(self, name: str) -> None:
        """From now on; who watches has to list again, and so to show who it is."""
        self.api.identity = name
        self.api.put(SERVICES, "db", fake_api.service("10.96.0.2"), silently=True)
        gone = fake_api.status_object(410, "Expired", "gone")
        self.api.emit(SERVICES, "ERROR", gone)

    async def follows(self, followed: following.Following) -> None:
        """Changes of Services and of endpoints arrive, be it by a watch that was there before."""
        await followed.until(lambda: followed.services() == {"web", "db"})
        for address in ("10.1.0.2", "10.1.0.3"):
            self.api.put(SLICES, "web-1", fake_api.sliced("web", address))
            await followed.until(lambda now={address}: followed.backends("web") == now)  # type: ignore[misc]

    @contextlib.asynccontextmanager
    async def followed(self, user: kubeconfig.User) -> AsyncIterator[following.Following]:
        """A running informer of `user`; synced."""
        context = tls.server(
            self.authority, self.key_of_server, *(crt for crt, _ in self.clients.values())
        )
        async with fake_api.serving(self.api, context) as api:
            access = kubeconfig.ClusterAccess(api.url, "test", user, self.authority)
            async with following.following(api, access=access) as made:
                await made.until(lambda: made.informed.has_synced)
                yield made


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


async def test_a_certificate_in_the_kubeconfig_itself_is_shown(lab: Lab) -> None:
    certificate, key = (path.read_bytes() for path in lab.clients["old"])
    async with lab.followed(kubeconfig.User(certificate=certificate, key=key)) as followed:
        assert followed.backends("web") == {"10.1.0.1"}
        assert followed.told == []


async def test_a_rotated_certificate_file_is_read_again_as_soon_as_the_old_one_is_refused(
    lab: Lab,
) -> None:
    user = kubeconfig.User(certificate=lab.certificate, key=lab.key)
    async with lab.followed(user) as followed:
        lab.install("new")
        lab.refuse_all_but("new")
        await lab.follows(followed)
        assert followed.told == []


async def test_a_certificate_without_its_key_yet_is_reported_and_heals(lab: Lab) -> None:
    """Two files cannot be replaced at once."""
    user = kubeconfig.User(certificate=lab.certificate, key=lab.key)
    async with lab.followed(user) as followed:
        shutil.copy(lab.clients["new"][0], lab.certificate)
        lab.refuse_all_but("new")
        await followed.until(lambda: bool(followed.told))
        assert "cannot be used" in str(followed.told[0])
        assert followed.services() == {"web"}
        lab.install("new")
        await lab.follows(followed)
        await followed.until(lambda: not followed.informed.problems())


async def test_a_plugins_new_certificate_is_shown_from_then_on(lab: Lab) -> None:
    plugin_prints(lab, "old")
    user = kubeconfig.User(exec_plugin=kubeconfig.ExecPlugin(str(lab.plugin), V1))
    async with lab.followed(user) as followed:
        plugin_prints(lab, "new")
        lab.refuse_all_but("new")
        await lab.follows(followed)
        assert followed.told == []


def plugin_prints(lab: Lab, name: str) -> None:
    """Let the plugin answer with the certificate of `name`."""
    certificate, key = (path.read_text() for path in lab.clients[name])
    status = {"clientCertificateData": certificate, "clientKeyData": key}
    answer = {"apiVersion": V1, "kind": "ExecCredential", "status": status}
    (lab.folder / "answer").write_text(json.dumps(answer))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_server_that_ends_tls_without_a_good_certificate_gets_the_new_one(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """As proxies in front of API servers do. In TLS 1.3 the refusal follows the handshake."""
    lab = Lab(tmp_path)
    context = tls.server(lab.authority, lab.key_of_server, lab.clients["new"][0])
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = version
    lab.api.identity = ""
    plugin_prints(lab, "old")
    user = kubeconfig.User(exec_plugin=kubeconfig.ExecPlugin(str(lab.plugin), V1))
    async with fake_api.serving(lab.api, context) as api:
        access = kubeconfig.ClusterAccess(api.url, "test", user, lab.authority)
        async with following.following(api, access=access) as followed:
            await followed.until(lambda: bool(followed.told))
            plugin_prints(lab, "new")
            await followed.until(lambda: followed.informed.has_synced)


async def test_files_that_are_gone_or_unfit_for_a_while_cost_nothing_while_the_old_ones_are_good(
    lab: Lab,
) -> None:
    """Only the periodic look found the new files: no server has refused the certificate in use."""
    now = 0.0
    user = kubeconfig.User(certificate=lab.certificate, key=lab.key)
    context = tls.server(
        lab.authority, lab.key_of_server, *(crt for crt, _ in lab.clients.values())
    )
    async with fake_api.serving(lab.api, context) as api:
        access = kubeconfig.ClusterAccess(api.url, "test", user, lab.authority)
        async with client.Client(access, environment={}, monotonic=lambda: now) as asking:
            await ask(asking)
            lab.key.unlink()
            now += credentials.FILE_SECONDS
            await ask(asking)
            lab.install("new")
            lab.key.write_bytes(lab.clients["old"][1].read_bytes())
            now += credentials.FILE_SECONDS
            await ask(asking)
            api.identity = "new"
            with pytest.raises(client.RequestError, match="cannot be used"):
                await ask(asking)
            lab.install("new")
            await ask(asking)


async def ask(asking: client.Client) -> None:
    """A request that must succeed. Raises RequestError."""
    async with asking.get(progress.Mode.LIST, SERVICES, {}) as answer:
        await answer.read_all(60.0, 1_000_000)


async def test_a_kubeconfig_of_files_works_from_end_to_end(lab: Lab) -> None:
    """Relative paths, as minikube and kubeadm write them."""
    user = {"client-certificate": "client.crt", "client-key": "client.key"}
    async with lab.followed(kubeconfig.User(certificate=lab.certificate, key=lab.key)) as first:
        cluster = {
            "server": first.api.url,
            "certificate-authority-data": base64.b64encode(lab.authority.read_bytes()).decode(),
        }
        content = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
        }
        path = lab.folder / "kubeconfig"
        path.write_text(json.dumps(content))
        access = kubeconfig.read([path], None)
        async with following.following(first.api, access=access) as followed:
            await followed.until(lambda: followed.informed.has_synced)
            assert followed.backends("web") == {"10.1.0.1"}
