"""`kproxy version`."""

import platform
from typing import Annotated

import typer

import kproxy


def version(
    output_format: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FORMAT", help="One of text, json, yaml, jsonpath=TEMPLATE."
        ),
    ] = "text",
) -> None:
    """Print the version."""
    if output_format in ("", "text"):
        typer.echo(f"kproxy {kproxy.__version__}")
        return
    from kproxy.cli.render import output  # noqa: PLC0415  # text needs none of it

    printed = output.document(output_format)
    assert printed is not None
    facts = {
        "version": kproxy.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    typer.echo(printed(facts), nl=False)
