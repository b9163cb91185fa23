"""Flags as kubectl's users write them: Go's notation, by the rules of pflag.

`--no-headers=true`, `-A=false`, `-n=prod`, `-Ao=json`. Typer's parser takes no value for a switch,
and takes the equals sign of a short option as a part of its value.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from typer import core

from kproxy import errors

TRUE = ("true", "t", "1", "True", "TRUE", "T")
FALSE = ("false", "f", "0", "False", "FALSE", "F")
"""As Go's `strconv.ParseBool` reads them."""

_CHOOSE_CLUSTER = frozenset(
    {"--context", "--kubeconfig", "--cluster", "--user", "--server", "-s", "--token"}
)
"""kubectl's flags that say which cluster is meant, and as whom."""


class Option(NamedTuple):
    """An option: its name, and for a switch the word for its opposite, "" if it has none."""

    name: str
    is_switch: bool
    opposite: str = ""


def truth(flag: str, text: str) -> bool:
    """The value of a switch. Raises ConfigError."""
    if text in TRUE:
        return True
    if text in FALSE:
        return False
    raise errors.ConfigError(f"{flag}={text}: must be true or false")


def plain(arguments: Sequence[str], options: Mapping[str, Option]) -> list[str]:
    """`arguments` in the notation that typer reads: long options, switches without a value.

    `options` has each option under each of its names; words that it does not know stay as they
    are. Raises ConfigError for a switch that is neither true nor false.
    """
    left: list[str] = []
    switches: dict[Option, bool] = {}
    words = deque(arguments)
    while words and words[0] != "--":
        word = words.popleft()
        if word.startswith("--"):
            _read_long(word, words, options, switches, left)
        elif word.startswith("-") and word != "-":
            _read_short(word, words, options, switches, left)
        else:
            left.append(word)
    chosen = [each.name if is_on else each.opposite for each, is_on in switches.items()]
    return [*filter(None, chosen), *left, *words]


def _read_long(
    word: str,
    words: deque[str],
    options: Mapping[str, Option],
    switches: dict[Option, bool],
    left: list[str],
) -> None:
    name, equals, text = word.partition("=")
    option = options.get(name)
    if option is None:
        left.append(word)
    elif option.is_switch:
        value = truth(name, text) if equals else True
        switches[option] = value is (name != option.opposite)
    else:
        left.append(word)
        if not equals and words:
            left.append(words.popleft())


def _read_short(
    word: str,
    words: deque[str],
    options: Mapping[str, Option],
    switches: dict[Option, bool],
    left: list[str],
) -> None:
    """One or several short options in one word, the last one perhaps with its value."""
    letters = word[1:]
    while letters:
        flag, letters = f"-{letters[0]}", letters[1:]
        option = options.get(flag)
        has_value = letters.startswith("=") and len(letters) > 1
        if option is None:
            left.append(f"{flag}{letters}")
            return
        if option.is_switch:
            switches[option] = truth(flag, letters[1:]) if has_value else True
            if has_value:
                return
            continue
        if not letters:
            left.append(flag)
            if words:
                left.append(words.popleft())
            return
        left.append(f"{option.name}={letters.removeprefix('=') if has_value else letters}")
        return


def options_of(parameters: Iterable[Any]) -> dict[str, Option]:
    """The options among typer's parameters, under each of their names."""
    found: dict[str, Option] = {}
    for each in parameters:
        if each.param_type_name != "option":
            continue
        name = next((name for name in each.opts if name.startswith("--")), each.opts[0])
        opposite = each.secondary_opts[0] if each.secondary_opts else ""
        option = Option(name, is_switch=bool(each.is_flag or each.count), opposite=opposite)
        found |= dict.fromkeys((*each.opts, *each.secondary_opts), option)
    return found


class Command(core.TyperCommand):
    """A command whose flags may be written as kubectl's are. Its help has no types of Python's."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """As typer's, but where the command gives a metavar that is all that is shown."""
        for each in self.params:
            if each.param_type_name == "argument" and each.metavar:
                vars(each)["display_type_rich"] = lambda **_: None
        super().format_options(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer's. Raises ConfigError for a flag of kubectl's that chooses a cluster."""
        options = options_of(self.get_params(ctx))
        if "--control" in options:
            for word in args[: args.index("--") if "--" in args else None]:
                flag = word.partition("=")[0]
                if flag in _CHOOSE_CLUSTER and flag not in options:
                    raise errors.ConfigError(
                        f"{flag} chooses a cluster, but {ctx.command_path} asks a running proxy: "
                        "name the proxy's socket with --control, or leave the flag out"
                    )
        return super().parse_args(ctx, plain(args, options))
