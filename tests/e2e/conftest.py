"""Fixtures: a proxy in a process of its own, gone at the end whatever happened."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.e2e.rig import daemon

Run: TypeAlias = Callable[..., daemon.Daemon]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Start proxies as `daemon.running` does; they end with the test."""
    with contextlib.ExitStack() as stack:
        count = 0

        def start(manifests: Path, *flags: str, **how: object) -> daemon.Daemon:
            nonlocal count
            count += 1
            starting = daemon.running(tmp_path / f"kproxy-{count}", manifests, *flags, **how)  # type: ignore[arg-type]  # passed on as given
            return stack.enter_context(starting)

        yield start
