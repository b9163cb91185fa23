"""`kproxy version`."""

import json
import platform
from enum import StrEnum
from typing import Annotated

import typer

import kproxy


class OutputFormat(StrEnum):
    """Values of -o where there is nothing to tabulate."""

    TEXT = "text"
    JSON = "json"


def version(
    output: Annotated[OutputFormat, typer.Option("--output", "-o")] = OutputFormat.TEXT,
) -> None:
    """Print the version."""
    if output is OutputFormat.JSON:
        facts = {
            "version": kproxy.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
        }
        typer.echo(json.dumps(facts))
    else:
        typer.echo(f"kproxy {kproxy.__version__}")
