"""The program nginx, and stand-ins for it."""

from pathlib import Path

import pytest

from kproxy import errors
from kproxy.ingress.daemon import program
from tests.ingress.rig import nginx_rig


@pytest.mark.parametrize(
    ("script", "version"),
    [
        ("echo nginx version: nginx/1.26.3 >&2", (1, 26, 3)),
        ("echo 'nginx version: nginx/1.18.0 (Ubuntu)' >&2", (1, 18, 0)),
        ("echo nginx version: openresty/1.27.1.2 >&2", ()),
        ("echo 'Tengine version: Tengine/3.1.0 (nginx/1.24.0)' >&2", (1, 24, 0)),
    ],
)
async def test_the_version_is_what_it_says(
    tmp_path: Path, script: str, version: tuple[int, ...]
) -> None:
    made = tmp_path / "nginx"
    made.write_text(f"#!/bin/sh\n{script}\n")
    made.chmod(0o755)
    assert await program.version(made) == version


@pytest.mark.parametrize("script", ["exit 0", "exit 1", "echo nginx/1.26.3", "echo 1.26.3 >&2"])
async def test_what_is_no_nginx_is_refused(tmp_path: Path, script: str) -> None:
    made = tmp_path / "other"
    made.write_text(f"#!/bin/sh\n{script}\n")
    made.chmod(0o755)
    with pytest.raises(errors.ConfigError, match=r"other is no nginx: .* \(other -v\)"):
        await program.version(made)


async def test_a_program_that_cannot_be_started_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match="none cannot be started: no such file"):
        await program.version(tmp_path / "none")


@nginx_rig.needs_nginx
async def test_nginx_has_a_version() -> None:
    assert nginx_rig.NGINX
    assert await program.version(Path(nginx_rig.NGINX)) == nginx_rig.version()
