"""The command line that a table of settings gives: one option for each row."""

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

import typer
from typer import core

from kproxy import settings

_Result = TypeVar("_Result")


class Command(core.TyperCommand):
    """A command whose options are settings; values stay the text that the user gave.

    `settings.read` checks them, wherever they come from. Typer would load pydantic for that,
    which takes longer than everything else that a command line needs.
    """

    rows: ClassVar[Sequence[settings.Setting]] = ()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the settings into the context's `params`. Raises TyperException."""
        given, left, _order = self.make_parser(ctx).parse_args(args=args)
        if given.get("help") and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            ctx.exit()
        if left and not ctx.resilient_parsing:
            ctx.fail(f"Got unexpected extra argument(s) ({' '.join(left)})")
        ctx.params.update({row.attribute: given.get(row.attribute) for row in self.rows})
        ctx.args = left
        return left


def takes(
    rows: Sequence[settings.Setting],
) -> Callable[[Callable[..., _Result]], Callable[..., _Result]]:
    """A decorator: the function takes the settings as keywords, by attribute.

    Typer's context comes first, as `invocation`.
    """

    def decorate(function: Callable[..., _Result]) -> Callable[..., _Result]:
        made = _signature(rows)
        function.__signature__ = made  # type: ignore[attr-defined]  # which inspect looks for
        function.__annotations__ = {
            name: parameter.annotation for name, parameter in made.parameters.items()
        }
        return function

    return decorate


def takes_value(rows: Sequence[settings.Setting]) -> Callable[[str], bool | None]:
    """A function that says whether a value follows a flag; None if no setting has this flag."""
    known: dict[str, bool] = {}
    for row in rows:
        is_switch = isinstance(row.kind, settings.Switch)
        known[row.flag] = not is_switch
        if row.entry.short:
            known[row.entry.short] = not is_switch
    return known.get


def _signature(rows: Sequence[settings.Setting]) -> inspect.Signature:
    """A signature that typer reads: a keyword parameter for each setting."""
    invocation = inspect.Parameter(
        "invocation", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
    )
    return inspect.Signature(
        [
            invocation,
            *(
                inspect.Parameter(
                    row.attribute,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=None,
                    annotation=Annotated[_type(row), _option(row)],
                )
                for row in rows
            ),
        ]
    )


def _type(row: settings.Setting) -> Any:
    if isinstance(row.kind, settings.Switch):
        return bool | None
    return list[str] | None if row.is_repeatable else str | None


def _option(row: settings.Setting) -> Any:
    names = [row.flag]
    if isinstance(row.kind, settings.Switch):
        names = [f"{row.flag}/--no-{row.flag.removeprefix('--')}"]
    if row.entry.short:
        names.append(row.entry.short)
    return typer.Option(
        *names,
        metavar=row.kind.metavar or None,
        help=_help(row),
        show_default=False,
        autocompletion=_completion(row),
    )


def _completion(row: settings.Setting) -> Callable[[str], list[str]] | None:
    """What a shell is offered for a setting that has one of a few names."""
    if not isinstance(row.kind, settings.OneOf):
        return None
    names = [str(name) for name in row.kind.names]
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


def _help(row: settings.Setting) -> str:
    """The default is written here: typer would write `(default: ...)` twice for a text."""
    if isinstance(row.kind, settings.Switch) or row.shown_default == "none":
        return row.help
    return f"{row.help} [default: {row.shown_default}]"
