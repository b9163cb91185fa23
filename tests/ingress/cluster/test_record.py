"""What a killed proxy has published is found by the next one of its host."""

from pathlib import Path
from typing import NoReturn

import pytest

from kproxy import settings
from kproxy.ingress import ingress, kinds, state
from kproxy.ingress import settings as ingress_settings
from kproxy.ingress.cluster import publisher, record
from kproxy.ingress.daemon import private_directory
from kproxy.model.kinds import registry
from kproxy.sources import store
from tests.ingress.rig import nginx_rig
from tests.ops import observing

SERVER = "https://api.example"


def left_by_a_killed_proxy(folder: Path, server: str, *addresses: str) -> Path:
    """A directory as a proxy leaves it that is killed while its addresses are published."""
    folder.mkdir(exist_ok=True)
    kept = record.Record(server)
    kept.keep_by(lambda name, content: _void((folder / name).write_bytes(content)))
    kept.note(addresses)
    return folder


def recorded(folder: Path) -> set[str]:
    """The addresses in the record of a directory."""
    found = record.Record(SERVER)
    found.take(folder)
    return found.earlier


def _void(_: object) -> None:
    """For what returns something."""


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"server": 1}', b"[" * 100_000])
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / record.FILE).write_bytes(content)

    assert not recorded(tmp_path)


def test_a_record_of_another_cluster_is_passed_over(tmp_path: Path) -> None:
    left_by_a_killed_proxy(tmp_path, "https://other.example", "192.0.2.7")

    assert not recorded(tmp_path)


@nginx_rig.needs_nginx
async def test_the_component_takes_it_and_keeps_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def base(*_: object) -> Path:
        return tmp_path

    monkeypatch.setattr(private_directory, "base", base)
    left = tmp_path / f"{private_directory.PREFIX}left"
    left_by_a_killed_proxy(left, SERVER, "192.0.2.7")
    read = observing.StillSource(())
    read.store = store.Store((*registry.KINDS, *kinds.KINDS))
    shown, kept = state.IngressState(), record.Record(SERVER)
    written = publisher.Publisher(_no_client, read.store, shown, tuple, kept)
    chosen = ingress_settings.IngressSettings(
        ingress=True, ingress_http=settings.Listen("127.0.0.1", 0), ingress_https=None
    )
    made = ingress.Ingress(chosen, read, lambda _: (), shown, written)
    made.bind()
    (own,) = _inside(tmp_path)

    assert kept.earlier == {"192.0.2.7"}
    kept.note(["192.0.2.8"])
    assert recorded(own) == {"192.0.2.8"}
    made.close()
    assert not _inside(tmp_path)


def _inside(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def _no_client() -> NoReturn:
    raise AssertionError("nothing is written before the component runs")
