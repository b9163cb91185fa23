"""Commands without a process of their own, whose start takes nearly all of their time."""

import asyncio
import contextlib
import io
import subprocess
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from kproxy.cli import event_loop, main
from kproxy.system import privileges
from tests.e2e.rig import daemon

_Result = TypeVar("_Result")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`kproxy ARGUMENTS` in an environment that has these variables too.

    For commands that end by themselves. What concerns the process (signals, a closed pipe, what
    is imported) needs one. Raises TimeoutError if it goes on to serve, where it should not.
    """
    really_run = event_loop.run
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        for name, value in environment.items():
            patch.setenv(name, value)
        # What is given up is given up for good, by this process too.
        patch.setattr(privileges, "limit_to", lambda *_, **__: None)
        patch.setattr(event_loop, "run", lambda task: really_run(_within_bounds(task)))
        code = main.run(list(arguments))
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


async def _within_bounds(task: Coroutine[Any, Any, _Result]) -> _Result:
    async with asyncio.timeout(daemon.DEADLINE):
        return await task
