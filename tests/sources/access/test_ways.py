"""A kubeconfig that changes under a running process: a cluster made anew, a user renamed."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from kproxy.sources.access import credentials, kubeconfig
from kproxy.sources.api import client
from kproxy.sources.api.decisions import progress
from tests.sources.access import tls
from tests.sources.api.rig import fake_api
from tests.sources.api.rig.fake_api import SERVICES


class Lab:
    """A kubeconfig, and clusters that it can lead to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "config"
        self.now = 0.0

    def write(self, server: str, authority: Path, **more: Any) -> None:
        """Let the kubeconfig lead to `server`; `more` are other keys of the file."""
        cluster = {
            "server": server,
            "certificate-authority-data": base64.b64encode(authority.read_bytes()).decode(),
        }
        content = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            **more,
        }
        self.path.write_text(json.dumps(content))

    def client(self) -> client.Client:
        access = kubeconfig.read([self.path], None)
        return client.Client(access, environment={}, monotonic=lambda: self.now)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


async def ask(asking: client.Client) -> None:
    """A request that must succeed. Raises RequestError."""
    async with asking.get(progress.Mode.LIST, SERVICES, {}) as answer:
        await answer.read_all(60.0, 1_000_000)


async def test_a_cluster_made_anew_is_found_by_its_rewritten_kubeconfig(lab: Lab) -> None:
    """Another port, another authority: as `kind delete cluster; kind create cluster` leaves it."""
    old, new = (tls.certificate(lab.folder, name) for name in ("old", "new"))
    async with fake_api.serving(fake_api.FakeApi(), tls.server(*old)) as first:
        lab.write(first.url, old[0])
        asking = lab.client()
        await ask(asking)
    async with fake_api.serving(fake_api.FakeApi(), tls.server(*new)) as second, asking:
        with pytest.raises(client.RequestError):
            await ask(asking)
        lab.write(second.url, new[0])
        await ask(asking)
        assert asking.access.server == second.url


async def test_a_new_authority_at_the_same_address_is_trusted_once_the_kubeconfig_has_it(
    lab: Lab,
) -> None:
    old, new = (tls.certificate(lab.folder, name) for name in ("old", "new"))
    async with fake_api.serving(fake_api.FakeApi(), tls.server(*new)) as api:
        lab.write(api.url, old[0])
        async with lab.client() as asking:
            with pytest.raises(client.RequestError, match="TLS failed"):
                await ask(asking)
            lab.write(api.url, new[0])
            await ask(asking)


async def test_a_new_token_in_the_kubeconfig_is_used_as_soon_as_the_old_one_is_refused(
    lab: Lab,
) -> None:
    own = tls.certificate(lab.folder, "own")
    api = fake_api.FakeApi(token="t")
    async with fake_api.serving(api, tls.server(*own)) as api:
        lab.write(api.url, own[0])
        async with lab.client() as asking:
            await ask(asking)
            api.token = "fresh"
            with pytest.raises(client.RequestError, match="401"):
                await ask(asking)
            lab.write(api.url, own[0], users=[{"name": "u", "user": {"token": "fresh"}}])
            await ask(asking)


async def test_another_current_context_changes_nothing(lab: Lab) -> None:
    """`kubectl config use-context` is meant for kubectl."""
    own = tls.certificate(lab.folder, "own")
    async with fake_api.serving(fake_api.FakeApi(), tls.server(*own)) as api:
        lab.write(api.url, own[0])
        async with lab.client() as asking:
            lab.write(api.url, own[0], **{"current-context": "elsewhere"})
            lab.now += credentials.FILE_SECONDS
            await ask(asking)
            assert asking.access.context == "c"


@pytest.mark.parametrize("content", ["", "a: [", "kind: Pod"])
async def test_a_kubeconfig_that_cannot_be_used_changes_nothing(lab: Lab, content: str) -> None:
    own = tls.certificate(lab.folder, "own")
    async with fake_api.serving(fake_api.FakeApi(), tls.server(*own)) as api:
        lab.write(api.url, own[0])
        async with lab.client() as asking:
            lab.path.write_text(content)
            lab.now += credentials.FILE_SECONDS
            await ask(asking)
            lab.path.unlink()
            lab.now += credentials.FILE_SECONDS
            await ask(asking)


class Rotating:
    """A server whose certificate, its own authority, is replaced, as is the file of clients."""

    def __init__(self, folder: Path) -> None:
        self._old, self._new = (tls.certificate(folder, name) for name in ("old", "new"))
        self.authority = folder / "ca.crt"
        self.authority.write_bytes(self._old[0].read_bytes())
        self.context = tls.server(*self._old)

    def rotate(self) -> None:
        self.context.load_cert_chain(*self._new)
        self.authority.write_bytes(self._new[0].read_bytes())

    def access(self, url: str) -> kubeconfig.ClusterAccess:
        """The kubeconfig names the file, and stays the same."""
        return kubeconfig.ClusterAccess(url, "c", authority=self.authority)


async def test_an_authority_that_is_replaced_on_disk_is_read_again(lab: Lab) -> None:
    server = Rotating(lab.folder)
    async with fake_api.serving(fake_api.FakeApi(), server.context) as api:
        access = server.access(api.url)
        async with client.Client(access, environment={}) as asking:
            await ask(asking)
        server.rotate()
        async with client.Client(access, environment={}) as asking:
            with pytest.raises(client.RequestError, match="certificate is not valid"):
                await ask(asking)
            await ask(asking)


async def test_renewing_reads_an_authority_again_before_it_fails(lab: Lab) -> None:
    server = Rotating(lab.folder)
    async with (
        fake_api.serving(fake_api.FakeApi(), server.context) as api,
        client.Client(server.access(api.url), environment={}) as asking,
    ):
        await ask(asking)
        server.rotate()
        asking.renew()
        await ask(asking)
        server.authority.write_text("being replaced")
        asking.renew()
        await ask(asking)
