"""The results of one run: every raw figure that was measured, and what it depends on.

This is the JSON that `kproxy bench --json` writes; its schema is pinned by a test and named in
the file. Nothing that can be computed is stored: a reader computes medians, spreads and ratios from
the rounds, with `kproxy.bench.report.arithmetic`.

Values are tuples, so that a report that is handed around cannot be changed. Strings named
`title` are noun phrases that a reader understands by themselves ("connections per second"), in
lower case unless a name.
"""

from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from kproxy import errors
from kproxy.system import files

SCHEMA: Final = "kproxy.io/bench/v1"

SUBJECT = "kproxy"
"""The subject that all others are compared with."""

DIRECT = "direct"
"""The subject that is no proxy at all: the client speaks with the backend."""

Better: TypeAlias = Literal["higher", "lower"]


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A JSON object that may have no other fields than these."""


class Machine(_Struct, frozen=True):
    """What the figures depend on, and another reader cannot see.

    `memory` is in bytes, `cores` those that this process may use. `versions` has a line for
    kproxy and for every peer and tool that took part.
    """

    kernel: str
    cpu: str
    cores: int
    memory: int
    python: str
    versions: dict[str, str] = {}


class Series(_Struct, frozen=True):
    """One subject's values, one per round, in the order of the rounds.

    The n-th values of all series of a figure come from the same round, so they can be divided.
    None, or a series that is shorter than another: not measured in that round.
    """

    subject: str
    rounds: tuple[float | None, ...]


class Figure(_Struct, frozen=True):
    """One measured quantity, for every subject that it was measured of.

    `name` is unique within its scenario and does not change from version to version; `title` is
    for the reader. Figures of one scenario with the same `stack` are parts of one whole, which
    has that title (user and kernel time are the parts of CPU time): charts stack them, tables
    and comparisons add them up.
    """

    name: str
    title: str
    unit: str
    better: Better
    series: tuple[Series, ...]
    stack: str | None = None


class Quantiles(_Struct, frozen=True):
    """One subject's distribution over all rounds: (q, value) with q from 0 to 1, ascending."""

    subject: str
    quantiles: tuple[tuple[float, float], ...]


class Distribution(_Struct, frozen=True):
    """How a quantity is distributed, such as latency at a fixed rate."""

    name: str
    title: str
    unit: str
    series: tuple[Quantiles, ...]


class Point(_Struct, frozen=True):
    """The values at one place of a curve, one per round as in a `Series`."""

    x: float
    rounds: tuple[float | None, ...]


class CurveSeries(_Struct, frozen=True):
    """One subject's curve, ascending in x."""

    subject: str
    points: tuple[Point, ...]


class Curve(_Struct, frozen=True):
    """How a quantity grows with another, such as start-up time with the number of Services."""

    name: str
    title: str
    x_label: str
    unit: str
    better: Better
    series: tuple[CurveSeries, ...]
    log_x: bool = True
    log_y: bool = True


class Scenario(_Struct, frozen=True):
    """One kind of load, and all that was measured under it. The first figure is the main one.

    `notes` are sentences for the reader: the size of the load, what was left out and why.
    """

    name: str
    title: str
    figures: tuple[Figure, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    curves: tuple[Curve, ...] = ()
    notes: tuple[str, ...] = ()


class Report(_Struct, frozen=True):
    """One run. `started` is RFC 3339 with an offset, `seconds` how long it took.

    `interrupted` means that the user ended it early, and that what is missing was not measured.
    """

    started: str
    seconds: float
    command: tuple[str, ...]
    machine: Machine
    scenarios: tuple[Scenario, ...]
    warnings: tuple[str, ...] = ()
    interrupted: bool = False
    schema: Literal["kproxy.io/bench/v1"] = SCHEMA


class _Header(msgspec.Struct):
    """What is read first: it separates another version's report from a file that is none."""

    schema: str = ""


def encode(report: Report) -> bytes:
    """The report as JSON, indented for reading in an editor. NaN becomes null."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def decode(content: bytes, where: str) -> Report:
    """The report in `content`; `where` names it in errors. Raises ConfigError if it is none."""
    try:
        schema = msgspec.json.decode(content, type=_Header).schema
        if schema == SCHEMA:
            return msgspec.json.decode(content, type=Report)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.ConfigError(
            f"{where} is not a report of kproxy bench: {error}; name a file written with --json"
        ) from error
    found = f"its schema is {schema!r}" if schema else "it names no schema"
    raise errors.ConfigError(
        f"{where} is not a report that this version of kproxy bench reads: "
        f"{found}, and {SCHEMA!r} was expected"
    )


def read(path: Path) -> Report:
    """The report in a file. Raises ConfigError when it cannot be read or is no report."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise errors.ConfigError(f"cannot read {path}: {error.strerror}") from error
    return decode(content, str(path))


def write(report: Report, path: Path) -> None:
    """Write the report to `path` in one step. Raises KproxyError when that is not possible."""
    replace(path, encode(report))


def replace(path: Path, content: bytes) -> None:
    """Write a file in one step: a reader sees the old one or the new one, never a part.

    What is no regular file, such as /dev/stdout, is written to: it is not to be replaced. Raises
    KproxyError when it cannot be written.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
        else:
            files.replace(path, content)
    except OSError as error:
        raise errors.KproxyError(f"cannot write {path}: {error.strerror}") from error
