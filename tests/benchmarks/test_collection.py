"""The pause of a collection: measured with a few connections, in a process of its own."""

import re
import subprocess
import sys


def test_the_pause_is_said_without_with_and_with_frozen_connections() -> None:
    command = [sys.executable, "-m", "benchmarks.collection", "20"]
    lines = subprocess.check_output(command, text=True, timeout=300).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "no connections",
        "20 connections",
        "20 connections, frozen",
    ]
    for line in lines:
        assert re.fullmatch(r".*: shortest [\d.]+ ms, median [\d.]+ ms, longest [\d.]+ ms", line)
