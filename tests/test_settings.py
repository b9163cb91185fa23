"""How a setting's value is read: from a flag, from the environment, or the default."""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from kproxy import config, errors, go_durations, settings


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A configuration with a setting of each kind."""

    wait: float | None = settings.setting(
        None, settings.Duration(0.1, 3600), "How long.", shown_default="no limit"
    )
    probe_after: int = settings.setting(60, settings.WholeSeconds(1, 32767), "When.")
    places: int = settings.setting(4, settings.Whole(1, 10, "places"), "How many.", flag="--room")
    colour: Colour = settings.setting(Colour.RED, settings.OneOf(Colour), "Which.")
    paths: tuple[Path, ...] = settings.setting(
        (), settings.Each(settings.File("./x")), "What.", short="-f"
    )
    loud: bool = settings.setting(False, settings.Switch(), "Whether.")
    host: str = settings.setting(
        "", settings.Text("NAME", "node-1"), "Who.", absent=lambda: "this-host"
    )
    volume: int = settings.setting(1, settings.Whole(1, 9), "How loud.", needs="--loud")
    zone: str = settings.setting(
        "a", settings.Text("NAME", "a1", bounds="letters and digits", admits=str.isalnum), "Where."
    )
    not_a_setting: int = 3


ROWS = settings.table(Sample)


def read(
    flags: dict[str, settings.Given] | None = None, environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """All values, by attribute."""
    found = settings.read(ROWS, flags or {}, environment or {})
    return {each.setting.attribute: each.value for each in found}


def refused(row: str, text: settings.Given) -> str:
    """The sentence for a flag's value that is refused."""
    with pytest.raises(errors.ConfigError) as caught:
        read({row: text})
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30.0),
        ("30s", 30.0),
        ("0.5", 0.5),
        (".5s", 0.5),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("250ms", 0.25),
        ("1m30s", 90.0),
        ("0h59m0.5s", 3540.5),
        (" 2s ", 2.0),
        ("100000us", 0.1),
        ("100000µs", 0.1),
        ("200000000ns", 0.2),
    ],
)
def test_durations_are_read_as_go_writes_them_or_as_seconds(text: str, seconds: float) -> None:
    assert read({"wait": text})["wait"] == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "x", "30 s", "30x", "s", "-1", "-1s", "+1s", "1e3", "nan", "inf", "infinity"),
        *("1h30", "1_000", "0x10", "\u0663s", "1m 30s", "9" * 400, "1s" * 4000, "\0", "1s\n1s"),
        *("0", "99ms", "1h1ns", "99999999999", "99999999999h"),
    ],
)
def test_what_is_no_duration_or_out_of_bounds_is_refused(text: str) -> None:
    said = refused("wait", text)

    assert said.startswith("--wait")
    assert "100ms" in said
    assert "1h" in said
    assert "\n" not in said
    assert len(said) < 300


@pytest.mark.parametrize("text", ["0", "1.5", "500ms", "32768", "40000", "99999999999", "-3", "x"])
def test_a_duration_that_the_kernel_counts_in_seconds_has_the_kernels_bounds(text: str) -> None:
    assert refused("probe_after", text).startswith(f"--probe-after {text}: must be ")


def test_a_duration_in_whole_seconds_may_be_written_in_any_unit() -> None:
    assert read({"probe_after": "9h6m7s"})["probe_after"] == 32767


@pytest.mark.parametrize(
    "text", ["", "0", "11", "-1", "1.0", "1e1", "nan", "0x1", "\u0663", "9" * 5000, "three", "1 2"]
)
def test_whole_numbers_are_checked(text: str) -> None:
    assert refused("places", text).startswith("--room")


def test_a_number_may_be_at_its_bounds() -> None:
    assert [read({"places": text})["places"] for text in ("1", "10")] == [1, 10]


def test_names_are_those_of_the_list() -> None:
    assert read({"colour": "blue"})["colour"] is Colour.BLUE
    assert refused("colour", "green") == "--colour green: must be one of red, blue"


def test_a_flag_beats_the_environment_which_beats_the_default() -> None:
    environment = {"KPROXY_ROOM": "5", "KPROXY_PATHS": "a,b", "KPROXY_LOUD": "True"}

    assert read()["places"] == 4
    assert read({}, environment)["places"] == 5
    assert read({"places": "6"}, environment)["places"] == 6
    assert read({"paths": []}, environment)["paths"] == (Path("a"), Path("b"))
    assert read({"paths": ["c,d"]}, environment)["paths"] == (Path("c,d"),)
    assert read({}, environment)["loud"] is True
    assert read({"loud": False}, environment)["loud"] is False


def test_an_empty_variable_is_unset() -> None:
    assert read({}, {"KPROXY_ROOM": "", "KPROXY_HOST": ""}) == read()


def test_a_refused_variable_is_named_as_such() -> None:
    with pytest.raises(errors.ConfigError, match=r"^KPROXY_WAIT -1: must be a duration"):
        read({}, {"KPROXY_WAIT": "-1"})


def test_a_value_may_be_computed_when_none_is_given() -> None:
    assert read()["host"] == "this-host"
    assert Sample().host == ""
    assert refused("host", " ").startswith("--host is empty")


def test_where_a_value_is_from_is_known() -> None:
    found = settings.read(ROWS, {"places": "6"}, {"KPROXY_WAIT": "1s"})

    origins = {each.setting.attribute: each.origin for each in found}
    assert (origins["places"], origins["wait"], origins["colour"]) == (
        "--room",
        "KPROXY_WAIT",
        "default",
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.1, "100ms"), (30, "30s"), (90.5, "1m30.5s"), (3600, "1h"), (5400, "1h30m")],
)
def test_durations_are_shown_as_they_can_be_given(seconds: float, text: str) -> None:
    assert go_durations.shown(seconds) == text
    assert settings.Duration(0, 1e6).parse(text) == pytest.approx(seconds)


def test_every_default_of_kproxy_run_is_within_its_own_bounds() -> None:
    for row in settings.table(config.Config):
        if row.default not in (None, "", (), frozenset()):
            assert row.parse(row.kind.show(row.default), row.flag) == row.default


def test_no_setting_has_the_name_of_a_variable_that_kubernetes_sets() -> None:
    """A pod beside a Service `kproxy` or `kproxy-metrics` has KPROXY_METRICS_SERVICE_PORT, …"""
    kubernetes = re.compile(r"KPROXY(_\w+)?_(SERVICE_(HOST|PORT\w*)|PORT(_\d+_(TCP|UDP|SCTP)\w*)?)")

    names = [row.variable for row in settings.table(config.Config)]

    assert [name for name in names if kubernetes.fullmatch(name)] == []
    assert len(set(names)) == len(names)


def test_a_flag_that_does_nothing_without_another_one_is_refused() -> None:
    with pytest.raises(errors.ConfigError) as caught:
        read({"volume": "3"})

    assert str(caught.value) == (
        "--volume does nothing without --loud: give that too, or leave --volume out"
    )
    assert read({"volume": "3", "loud": True})["volume"] == 3
    assert read({"volume": "3"}, {"KPROXY_LOUD": "true"})["volume"] == 3


def test_a_variable_that_does_nothing_without_a_flag_is_let_be() -> None:
    assert read({}, {"KPROXY_VOLUME": "3"})["volume"] == 3


def test_a_text_may_have_to_follow_a_rule() -> None:
    assert read({"zone": " b2 "})["zone"] == "b2"
    assert refused("zone", "b 2") == "--zone b 2: must be letters and digits, for instance a1"


def test_each_setting_needs_one_that_there_is() -> None:
    rows = settings.table(config.Config)

    needed = {row.entry.needs for row in rows} - {""}

    assert needed == {"--dns", "--gateway", "--ingress"}
    assert needed <= {row.flag for row in rows}
