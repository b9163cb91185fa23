"""`kproxy config`: what can be set, and what a command line and an environment set."""

import json
import os
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from kproxy import config, settings
from kproxy.cli.parse import go_flags, kube_proxy, options, variables

_ROWS = settings.table(config.Config)

app = typer.Typer(
    name="config",
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class OutputFormat(StrEnum):
    """Values of -o."""

    TEXT = "text"
    MARKDOWN = "markdown"
    JSON = "json"


@app.command(
    "reference", cls=go_flags.Command, short_help="Print all settings, with bounds and defaults."
)
def reference(
    output: Annotated[OutputFormat, typer.Option("--output", "-o")] = OutputFormat.TEXT,
) -> None:
    """Print all settings of kproxy run: flags, environment variables, bounds and defaults."""
    if output is OutputFormat.JSON:
        typer.echo(json.dumps([_facts(row) for row in _ROWS], indent=2))
    elif output is OutputFormat.MARKDOWN:
        typer.echo("\n".join(_markdown(_ROWS)))
    else:
        typer.echo("\n".join(_text(_ROWS)))


class ShowCommand(options.Command):
    """The command line of `kproxy run`, for `kproxy config show`."""

    rows = _ROWS

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As for `kproxy run`."""
        translated = kube_proxy.translate(args, options.takes_value(_ROWS))
        ctx.obj = translated.notes
        return super().parse_args(ctx, translated.arguments)


@app.command("show", cls=ShowCommand, short_help="Print the settings that these flags give.")
@options.takes(_ROWS)
def show(invocation: typer.Context, **flags: settings.Given) -> None:
    """Print the value of each setting that kproxy run would have with these flags.

    Each line names the origin of the value: a flag, an environment variable, or the default.
    Whether files and clusters can be reached is not checked.
    """
    known = [row.variable for row in _ROWS]
    for note in (*(invocation.obj or ()), *variables.misspelt(known, os.environ)):
        typer.echo(note, err=True)
    for each in settings.read(_ROWS, flags, os.environ):
        typer.echo(f"{each.setting.flag.removeprefix('--')} = {_shown(each)}  ({each.origin})")


def _shown(value: settings.Value) -> str:
    row = value.setting
    if value.origin == "default" and row.entry.absent is None:
        return row.shown_default
    return row.kind.show(value.value)


def _facts(row: settings.Setting) -> dict[str, object]:
    return {
        "flag": row.flag,
        "short": row.entry.short,
        "environment": row.variable,
        "fileKey": row.key,
        "type": row.kind.name,
        "bounds": row.kind.bounds,
        "default": row.shown_default,
        "reloadable": row.entry.is_reloadable,
        "help": row.help,
    }


def _text(rows: Sequence[settings.Setting]) -> Iterator[str]:
    for row in rows:
        flags = f"{row.entry.short}, {row.flag}" if row.entry.short else row.flag
        yield f"{flags} {row.kind.metavar}".rstrip()
        yield f"    {row.help}"
        yield f"    type: {row.kind.name}"
        if row.kind.bounds:
            yield f"    bounds: {row.kind.bounds}"
        yield f"    default: {row.shown_default}"
        yield f"    environment: {row.variable}"
        yield f"    file key: {row.key}"
        yield f"    reloadable: {'yes' if row.entry.is_reloadable else 'no'}"
        yield ""


def _markdown(rows: Sequence[settings.Setting]) -> Iterator[str]:
    yield "| flag | type and bounds | default | environment | file key | reloadable | meaning |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        flags = f"`{row.flag}`" + (f", `{row.entry.short}`" if row.entry.short else "")
        kind = f"{row.kind.name}: {row.kind.bounds}" if row.kind.bounds else row.kind.name
        cells = [
            flags,
            kind,
            row.shown_default,
            f"`{row.variable}`",
            f"`{row.key}`",
            "yes" if row.entry.is_reloadable else "no",
            row.help,
        ]
        escaped = (cell.replace("|", r"\|") for cell in cells)
        yield f"| {' | '.join(escaped)} |"
