"""How the tests are run: what the lanes rely on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.xdist_group("time")
def test_groups_are_kept_together(request: pytest.FixtureRequest) -> None:
    """pytest-xdist appends a group to a test's id, which some versions of pytest ignore."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("needs several processes: make test")
    assert request.node.nodeid.endswith("@time")


DYING = """
import os, signal, time
import pytest

@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(4))
def test_in_a_group(number):
    if number == 3:
        END

@pytest.mark.parametrize("number", range(4))
def test_beside_it(number):
    pass
"""


@pytest.mark.extra
@pytest.mark.parametrize(
    "end",
    [
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", id="dies"),
        pytest.param("time.sleep(3600)", id="hangs"),
    ],
)
def test_a_test_that_ends_its_process_fails_and_the_others_pass(tmp_path: Path, end: str) -> None:
    (tmp_path / "pytest.ini").touch()
    (tmp_path / "test_dying.py").write_text(DYING.replace("END", end))
    bounds = ("-o", "faulthandler_timeout=20", "-o", "faulthandler_exit_on_timeout=true")
    lane = ("-n", "2", "--dist", "loadgroup", "-p", "tests.scheduling", *bounds)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *lane],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 1
    assert "1 failed, 7 passed" in done.stdout
    assert "test_in_a_group[3]" in done.stdout
