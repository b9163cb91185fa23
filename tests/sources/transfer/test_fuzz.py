"""S20: watch events, lists and files that chance has spoilt crash nothing and take no room.

Each input is a good one from a recording or an example with some bytes changed, cut out, doubled
or swapped with another's. What matters is that each is taken in or refused in a sentence, that
good objects still come through, and that the work is bounded by the size of the input.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy.model.kinds import registry
from kproxy.sources import intake, source
from kproxy.sources.documents import reading
from kproxy.sources.transfer import framing, wire

_RECORDED = (
    Path(__file__).parent.parent.parent / "fixtures" / "recordings" / "kube-apiserver-v1.20.2"
)
_MANIFESTS = Path(__file__).parent.parent.parent / "fixtures" / "manifests"
_PIECES = (b"{", b"}", b"[", b"]", b'"', b":", b",", b"null", b"-1", b"1e999", b"\\u0000", b"\xff")


def spoilt(chance: random.Random, good: bytes) -> bytes:
    """`good` after one to four accidents."""
    data = bytearray(good)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        upto = min(at + chance.randint(1, 40), len(data))
        match chance.randrange(5):
            case 0:
                data[at:at] = chance.choice(_PIECES)
            case 1:
                del data[at:upto]
            case 2:
                data[at:at] = data[at:upto] * chance.randint(1, 3)
            case 3:
                data[at:upto] = chance.randbytes(upto - at)
            case 4:
                other = chance.randrange(len(data) + 1)
                data[at:upto] = data[other : other + (upto - at)]
    return bytes(data)


def is_sentence(text: str) -> bool:
    """Whether a user may be shown it: something, on one line, of bounded length."""
    return 0 < len(text) < 1000 and "\n" not in text and "Traceback" not in text


def recorded_lines() -> list[bytes]:
    """Watch events of a real API server."""
    return [line for path in _RECORDED.glob("watch-*.jsonl") for line in _lines(path)]


def _lines(path: Path) -> Iterator[bytes]:
    """The events of a recorded watch, whatever else the recording notes beside them."""
    for line in path.read_bytes().splitlines():
        if line.strip():
            noted = json.loads(line)
            yield json.dumps(noted.get("event", noted)).encode()


COUNTS = [pytest.param(3_000, id="3000"), pytest.param(1_000_000, marks=pytest.mark.long, id="1M")]


@pytest.mark.parametrize("count", COUNTS)
def test_s20_spoilt_watch_events_are_taken_in_or_refused_in_a_sentence(count: int) -> None:
    chance = random.Random(20)
    good = recorded_lines()
    assert len(good) > 20
    refused: list[str] = []
    told: list[source.Problem] = []
    taking = intake.Intake(told.append, allow_loopback=False)
    for _ in range(count):
        line = spoilt(chance, chance.choice(good)).replace(b"\n", b" ")
        framer = framing.LineFramer()
        try:
            for each in framer.feed(line + b"\n"):
                event = wire.event(each)
                if event.type == "BOOKMARK":
                    wire.bookmark(event.object)
                elif event.type == "ERROR":
                    wire.status(event.object)
                else:
                    taking.take(chance.choice(registry.KINDS), event.object, "a watch")
        except framing.FramingError as error:
            refused.append(str(error))
    assert count * 0.1 < len(refused) < count
    assert taking.quarantined == 0
    assert told
    assert all(map(is_sentence, (*refused, *map(str, told))))


@pytest.mark.parametrize("count", COUNTS)
def test_s20_spoilt_lists_end_with_a_page_or_a_sentence(count: int) -> None:
    chance = random.Random(21)
    good = [path.read_bytes() for path in _RECORDED.glob("list-*.json")]
    assert good
    refused: list[str] = []
    for _ in range(count // 10):
        framer, taken = framing.ListFramer(), 0
        body = spoilt(chance, chance.choice(good))
        try:
            for at in range(0, len(body), 997):
                taken += sum(len(item) for item in framer.feed(body[at : at + 997]))
        except framing.FramingError as error:
            refused.append(str(error))
        assert taken <= len(body)
    assert all(map(is_sentence, refused))


@pytest.mark.parametrize(
    "count", [pytest.param(600, id="600"), pytest.param(100_000, marks=pytest.mark.long, id="100k")]
)
def test_s20_spoilt_files_are_read_or_refused_in_a_sentence(count: int) -> None:
    chance = random.Random(22)
    good = [path.read_bytes() for path in _MANIFESTS.glob("*.yaml")]
    assert good
    refused: list[str] = []
    for _ in range(count):
        try:
            found = list(reading.read_yaml(spoilt(chance, chance.choice(good))))
        except reading.MalformedError as error:
            refused.append(str(error))
        else:
            refused += [document.flaw for document in found if document.flaw]
    assert refused
    assert all(map(is_sentence, refused))
