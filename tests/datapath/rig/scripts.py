"""Scripts in processes of their own, for what would change too much in the tests' process."""

import subprocess
import sys
import textwrap
from pathlib import Path

IN_NAMESPACE = ("unshare", "--net")
"""What goes before a script that needs a network namespace of its own. Needs root."""


def run(script: str, *prefix: str, seconds: float = 60) -> str:
    """Run a script that must succeed, after the words of `prefix`; returns what it printed."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
