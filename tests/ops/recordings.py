"""What a real kube-proxy 1.20.2 answered."""

import re
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "fixtures" / "recordings" / "kube-proxy-v1.20.2"


def answer(name: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a recorded answer."""
    head, _, body = (FOLDER / name).read_bytes().replace(b"\r\n", b"\n").partition(b"\n\n")
    status, *lines = head.decode().splitlines()
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body


def masked(body: bytes) -> bytes:
    """A health report with its times, and whether they are one and the same, made plain."""
    times = re.findall(rb'"(\d{4}-\d\d-\d\d [\d:]{8}\.\d+ \+0000 UTC m=[+-]\d+\.\d{9})"', body)
    for number, time in enumerate(dict.fromkeys(times)):
        body = body.replace(time, b"T%d" % number)
    return body
