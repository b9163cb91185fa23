"""Commands without a process of their own, whose start takes nearly all of their time."""

import contextlib
import io
import subprocess

import pytest

from kproxy.cli import main


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`kproxy ARGUMENTS` in an environment that has these variables too.

    For commands that end by themselves. What concerns the process (signals, a closed pipe, what
    is imported) needs one.
    """
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        for name, value in environment.items():
            patch.setenv(name, value)
        code = main.run(list(arguments))
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
