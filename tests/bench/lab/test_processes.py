"""Children are weighed with all they forked, talked to by lines, and nothing of them is left."""

import contextlib
import sys
from pathlib import Path

import pytest

from kproxy import errors
from kproxy.bench.lab import network, processes
from tests.e2e.rig import daemon

FORKING = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child == 0:
    sum(range(3_000_000))
    signal.pause()
print(child, flush=True)
signal.pause()
"""


def _python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_child_that_ignores_its_end_is_gone_with_what_it_forked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_STOP_TIMEOUT", 0.5)
    with processes.start("stubborn", _python(FORKING), tmp_path, interactive=True) as child:
        forked = int(child.answer(60))
        assert child.rss_bytes() > 0
        assert child.usage().total > 0
    assert child.popen.returncode is not None
    daemon.wait_until(lambda: not _alive(forked), "the kernel has ended what was forked")


def _alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_child_that_ends_early_is_reported_with_its_last_words(tmp_path: Path) -> None:
    [address] = network.free_addresses(1)
    with (
        processes.start("brief", _python("exit('the port is taken')"), tmp_path) as child,
        pytest.raises(errors.KproxyError, match="brief ended with exit code 1: the port is taken"),
    ):
        processes.wait_listening(child, address)


def test_a_child_that_ends_instead_of_answering_is_reported(tmp_path: Path) -> None:
    code = "input(); exit('no such plan')"
    with (
        processes.start("mute", _python(code), tmp_path, interactive=True) as child,
        pytest.raises(errors.KproxyError, match="mute ended with exit code 1: no such plan"),
    ):
        child.ask(b"hello", 60)


def test_a_child_that_says_nothing_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with (
        processes.start("deaf", _python("input(); input()"), tmp_path, interactive=True) as child,
        pytest.raises(errors.KproxyError, match="deaf did not answer within 0 s"),
    ):
        child.ask(b"hello", 0.05)


def test_a_program_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(errors.KproxyError, match=r"cannot start ghost .*check that it is installed"),
        processes.start("ghost", ["/no/such/program"], tmp_path),
    ):
        pass


def test_usage_is_divided_by_ticks_and_adds_up() -> None:
    used = processes.Usage(3.0, 4, 6) - processes.Usage(1.0, 2, 0)
    assert (used.total, used.user_share) == pytest.approx((2.0, 0.25))
    none = processes.Usage()
    assert (none.total, none.user_share) == (0, 0)
