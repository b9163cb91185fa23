"""The program nginx, and stand-ins for it."""

from pathlib import Path

import pytest

from kproxy.ingress.daemon import program
from tests.ingress.rig import nginx_rig


@pytest.mark.parametrize(
    ("script", "version"),
    [
        ("echo nginx version: nginx/1.26.3 >&2", (1, 26, 3)),
        ("echo 'nginx version: nginx/1.18.0 (Ubuntu)' >&2", (1, 18, 0)),
        ("echo nginx version: openresty/1.27.1.2 >&2", ()),
        ("exit 1", ()),
    ],
)
async def test_the_version_is_what_it_says(
    tmp_path: Path, script: str, version: tuple[int, ...]
) -> None:
    made = tmp_path / "nginx"
    made.write_text(f"#!/bin/sh\n{script}\n")
    made.chmod(0o755)
    assert await program.version(made) == version


async def test_a_program_that_is_not_there_has_no_version(tmp_path: Path) -> None:
    assert await program.version(tmp_path / "none") == ()


@nginx_rig.needs_nginx
async def test_nginx_has_a_version() -> None:
    assert nginx_rig.NGINX
    assert await program.version(Path(nginx_rig.NGINX)) == nginx_rig.version()
