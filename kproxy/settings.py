"""Settings: the entry of a configuration's field, and how its value is read.

A configuration is a frozen dataclass, and its fields are the table of settings: `setting(...)`
gives a field its default, its kind (the type, the unit and the bounds), its flag and its help.
From that one entry come the command line (`cli.options`), the environment variable, the checks,
`kproxy config show`, `kproxy config reference` and docs/settings.md.

A flag beats the environment, which beats the default. An environment variable that is set to the
empty string counts as unset, as KUBECONFIG does.
"""

import dataclasses
import inspect
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from kproxy import errors, go_durations

_Value = TypeVar("_Value")
_Value_co = TypeVar("_Value_co", covariant=True)
_Default = TypeVar("_Default")
_Name = TypeVar("_Name", bound=StrEnum)

Given = str | bool | Sequence[str] | None
"""What a command line holds for one setting; None and an empty list mean that it is not there."""


class Kind(Protocol[_Value_co]):
    """A type of values: its name, how help abbreviates a value, and which values it takes."""

    @property
    def name(self) -> str:
        """The type and its unit, for the reference."""
        ...

    @property
    def metavar(self) -> str:
        """The placeholder of a value in help; "" for a switch, which has none."""
        ...

    @property
    def bounds(self) -> str:
        """Which values are accepted; "" for all of this type."""
        ...

    def parse(self, text: str) -> _Value_co:
        """The value. Raises ValueError with the reason, which follows "--flag VALUE: "."""
        ...

    def show(self, value: Any) -> str:
        """A value as a user would write it."""
        ...


class ShownAsText:
    """The part of a kind whose values are shown as `str` has them."""

    __slots__ = ()

    def show(self, value: object) -> str:
        """A value as a user would write it."""
        return str(value)


@dataclass(frozen=True, slots=True)
class Text(ShownAsText):
    """Any text but the empty one, or those that `admits` takes."""

    metavar: str
    example: str
    name: str = "text"
    bounds: str = ""
    admits: Callable[[str], bool] | None = None

    def parse(self, text: str) -> str:
        """The text without white space around it."""
        found = text.strip()
        if not found:
            raise ValueError(f"is empty; give it a value, for instance {self.example}")
        if self.admits is not None and not self.admits(found):
            raise ValueError(f"must be {self.bounds}, for instance {self.example}")
        return found


@dataclass(frozen=True, slots=True)
class File(ShownAsText):
    """A path in the file system. Whether it can be used is checked elsewhere."""

    example: str
    metavar: str = "PATH"
    name: str = "path"
    bounds: str = ""

    def parse(self, text: str) -> Path:
        """The path. An empty one is refused, for it would mean the working directory."""
        if not text:
            raise ValueError(f"is empty; give it a path, for instance {self.example}")
        if "\0" in text:
            raise ValueError("a path cannot contain a NUL character")
        return Path(text)


@dataclass(frozen=True, slots=True)
class Switch:
    """On or off."""

    metavar: str = ""
    name: str = "switch"
    bounds: str = "true, false"

    def parse(self, text: str) -> bool:
        """As Go's `strconv.ParseBool` reads it, in any case."""
        word = text.strip().lower()
        if word in ("true", "t", "1"):
            return True
        if word in ("false", "f", "0"):
            return False
        raise ValueError("must be true or false")

    def show(self, value: object) -> str:
        return "true" if value else "false"


@dataclass(frozen=True, slots=True)
class OneOf(ShownAsText, Generic[_Name]):
    """One of the names of an enumeration."""

    names: type[_Name]
    name: str = "name"

    @property
    def metavar(self) -> str:
        return f"<{'|'.join(self.names)}>"

    @property
    def bounds(self) -> str:
        return ", ".join(self.names)

    def parse(self, text: str) -> _Name:
        """The member of that name."""
        try:
            return self.names(text.strip())
        except ValueError:
            raise ValueError(f"must be one of {self.bounds}") from None


@dataclass(frozen=True, slots=True)
class Whole(ShownAsText):
    """A whole number between two bounds, inclusive. `unit` is what is counted."""

    minimum: int
    maximum: int
    unit: str = ""
    metavar: str = "N"

    @property
    def name(self) -> str:
        return f"whole number of {self.unit}" if self.unit else "whole number"

    @property
    def bounds(self) -> str:
        return f"{self.minimum} to {self.maximum}"

    def parse(self, text: str) -> int:
        """The number, written in decimal digits."""
        # Python refuses to read more than 4,300 digits, with a message of its own.
        if not re.fullmatch(r"[+-]?[0-9]{1,40}", text.strip(), re.ASCII):
            raise ValueError(f"must be a whole number, {self.bounds}")
        number = int(text)
        if not self.minimum <= number <= self.maximum:
            raise ValueError(f"must be between {self.minimum} and {self.maximum}")
        return number


@dataclass(frozen=True, slots=True)
class Duration:
    """A duration in seconds, between two bounds, inclusive.

    Written as Go writes durations (`30s`, `5m`, `1h30m`, `250ms`), or as a plain number of
    seconds.
    """

    minimum: float
    maximum: float
    metavar: str = "DURATION"
    name: str = "duration"

    @property
    def bounds(self) -> str:
        return f"{self.show(self.minimum)} to {self.show(self.maximum)}"

    def parse(self, text: str) -> float:
        """The duration in seconds. Raises ValueError for bad notation and outside the bounds."""
        seconds = go_durations.seconds(text.strip())
        if seconds is None:
            raise ValueError(
                f"must be a duration such as 30s, 5m, 1h30m or 250ms, {self.bounds}; "
                "a plain number means seconds"
            )
        if not self.minimum <= seconds <= self.maximum:
            raise ValueError(
                f"must be between {self.show(self.minimum)} and {self.show(self.maximum)}"
            )
        return seconds

    def show(self, value: Any) -> str:
        return go_durations.shown(value)


@dataclass(frozen=True, slots=True)
class WholeSeconds:
    """A duration that the kernel counts in whole seconds; written as a `Duration` is."""

    minimum: int
    maximum: int
    metavar: str = "DURATION"
    name: str = "duration in whole seconds"

    @property
    def bounds(self) -> str:
        return f"{self.minimum}s to {self.maximum}s"

    def parse(self, text: str) -> int:
        """The duration in seconds. Raises ValueError for bad notation and outside the bounds."""
        try:
            seconds = Duration(self.minimum, self.maximum).parse(text)
        except ValueError:
            raise ValueError(
                f"must be a duration between {self.minimum}s and {self.maximum}s, such as 30s or "
                "5m; a plain number means seconds"
            ) from None
        if not seconds.is_integer():
            raise ValueError("must be a whole number of seconds")
        return int(seconds)

    def show(self, value: Any) -> str:
        return go_durations.shown(value)


_HOST_AND_PORT = re.compile(r"\[([^]]*)\](?::([0-9]{1,10}))?|([^:]*)(?::([0-9]{1,10}))?")


class Listen(NamedTuple):
    """Where to listen: an IP address in canonical text, and a port. The kernel picks port 0."""

    host: str
    port: int

    @property
    def is_everywhere(self) -> bool:
        """Whether its address stands for all addresses of this host, as 0.0.0.0 and :: do."""
        return ipaddress.ip_address(self.host).is_unspecified

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """As kube-proxy reads bind addresses: IPv6 must be in brackets before a port. None: nowhere."""

    default: Listen
    what: str = "an address to listen on"
    metavar: str = "IP:PORT"
    name: str = "address"
    bounds: str = 'an IP address with or without a port; "" or none for nowhere'

    def parse(self, text: str) -> Listen | None:
        """The place. Raises ValueError."""
        if text in {"", "none"}:
            return None
        found = _HOST_AND_PORT.fullmatch(text)
        host, given = (found[1] or found[3], found[2] or found[4]) if found else (text, None)
        try:
            address = ipaddress.ip_address(host or "")
        except ValueError:
            rule = f"not {self.what}, give IP:PORT, for instance {self.default}"
            raise ValueError(rule) from None
        port = int(given) if given else self.default.port
        if port > 65535:
            raise ValueError(f"port {port} is not between 0 and 65535")
        return Listen(str(address), port)

    def show(self, value: object) -> str:
        return "none" if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Each(Generic[_Value]):
    """Several values of one kind; repeatable on the command line, by commas in a variable."""

    kind: Kind[_Value]
    collect: Callable[[Sequence[_Value]], Any] = tuple

    @property
    def name(self) -> str:
        return f"list of {self.kind.name}"

    @property
    def metavar(self) -> str:
        return self.kind.metavar

    @property
    def bounds(self) -> str:
        return self.kind.bounds

    def parse(self, text: str) -> Any:
        """The values of a list that is written with commas."""
        return self.parse_all([each for each in text.split(",") if each.strip()])

    def parse_all(self, texts: Sequence[str]) -> Any:
        """The values of a list."""
        return self.collect([self.kind.parse(each) for each in texts])

    def show(self, value: Any) -> str:
        return ",".join(self.kind.show(each) for each in value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Everything about a setting but its name and default; `setting` makes it.

    `absent` computes the value when none is given; the field's default then applies only to a
    configuration that is made in code. `needs` is the flag without which this one does nothing.
    """

    kind: Kind[Any]
    help: str
    flag: str = ""
    short: str = ""
    shown_default: str = ""
    is_reloadable: bool = False
    absent: Callable[[], Any] | None = None
    needs: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table: a field's name and default, and its entry."""

    attribute: str
    default: Any
    entry: Entry

    @property
    def kind(self) -> Kind[Any]:
        return self.entry.kind

    @property
    def help(self) -> str:
        return self.entry.help

    @property
    def flag(self) -> str:
        """On the command line of `kproxy run`."""
        return self.entry.flag or "--" + self.attribute.replace("_", "-")

    @property
    def variable(self) -> str:
        """In the environment.

        Kubernetes sets `KPROXY_SERVICE_*` and `KPROXY_PORT*` in pods beside a Service `kproxy`:
        no setting may have such a name.
        """
        return "KPROXY_" + self.flag.removeprefix("--").replace("-", "_").upper()

    @property
    def key(self) -> str:
        """In a configuration file: the flag in camel case, as kube-proxy's file has it."""
        first, *more = self.flag.removeprefix("--").split("-")
        return first + "".join(map(str.capitalize, more))

    @property
    def shown_default(self) -> str:
        if self.entry.shown_default:
            return self.entry.shown_default
        if self.default is None or self.default in ((), frozenset(), ""):
            return "none"
        return self.kind.show(self.default)

    @property
    def is_repeatable(self) -> bool:
        """Whether several values may be given."""
        return isinstance(self.kind, Each)

    def parse(self, given: "str | bool | Sequence[str]", where: str) -> Any:
        """The value that `where`, a flag or a variable, holds. Raises ConfigError."""
        if isinstance(given, bool):
            return given
        try:
            if isinstance(self.kind, Each) and not isinstance(given, str):
                return self.kind.parse_all(given)
            return self.kind.parse(str(given))
        except ValueError as error:
            text = given if isinstance(given, str) else ",".join(given)
            shown = f" {_cut(text)}:" if text.strip() else ""
            raise errors.ConfigError(f"{where}{shown} {error}") from None


def setting(  # each is one column of the table
    default: _Default,
    kind: Kind[_Value],
    help: str,  # noqa: A002  # the column's name
    *,
    flag: str = "",
    short: str = "",
    shown_default: str = "",
    is_reloadable: bool = False,
    absent: Callable[[], _Value] | None = None,
    needs: str = "",
) -> "_Default | _Value":
    """A field of a configuration that users may set; see `Entry`.

    The flag is the field's name with dashes unless given.
    """
    entry = Entry(
        kind=kind,
        help=help,
        flag=flag,
        short=short,
        shown_default=shown_default,
        is_reloadable=is_reloadable,
        absent=absent,
        needs=needs,
    )
    made: _Default | _Value = dataclasses.field(default=default, metadata={Entry: entry})
    return made


def table(configuration: type) -> list[Setting]:
    """The settings of a configuration, in the order of its fields.

    Those that it inherits, as settings of an optional part, come last.
    """
    own = inspect.get_annotations(configuration)
    rows = [
        Setting(field.name, field.default, entry)
        for field in dataclasses.fields(configuration)
        if isinstance(entry := field.metadata.get(Entry), Entry)
    ]
    return sorted(rows, key=lambda row: row.attribute not in own)


@dataclass(frozen=True, slots=True)
class Value:
    """A setting's value, and `origin`: the flag or the variable it is from, or "default"."""

    setting: Setting
    value: Any
    origin: str


def read(
    rows: Sequence[Setting], flags: Mapping[str, Given], environment: Mapping[str, str]
) -> list[Value]:
    """The value of each setting. `flags` are by attribute. Raises ConfigError.

    A flag that does nothing without another one is refused where that is off. A variable is not:
    an environment is for many commands.
    """
    found = [_value(row, flags.get(row.attribute), environment) for row in rows]
    off = {each.setting.flag for each in found if not each.value}
    for each in found:
        needs, flag = each.setting.entry.needs, each.setting.flag
        if needs in off and each.origin == flag:
            raise errors.ConfigError(
                f"{flag} does nothing without {needs}: give that too, or leave {flag} out"
            )
    return found


def _value(row: Setting, given: Given, environment: Mapping[str, str]) -> Value:
    is_given = given is not None and not (row.is_repeatable and not given)
    if is_given and given is not None:
        return Value(row, row.parse(given, row.flag), row.flag)
    text = environment.get(row.variable, "")
    if text:
        return Value(row, row.parse(text, row.variable), row.variable)
    absent = row.entry.absent
    return Value(row, row.default if absent is None else absent(), "default")


def parse_duration(text: str, flag: str, minimum: float, maximum: float) -> float:
    """The seconds that `flag` of another command than `kproxy run` has. Raises ConfigError."""
    entry = Entry(kind=Duration(minimum, maximum), help="", flag=flag)
    seconds: float = Setting("", None, entry).parse(text, flag)
    return seconds


def _cut(text: str) -> str:
    """A value from the user, for a message: one line, not too long."""
    shown = " ".join(text.split())
    shown = "".join(each if each.isprintable() else "?" for each in shown)
    return shown if len(shown) <= 100 else f"{shown[:100]}..."  # a line's width
