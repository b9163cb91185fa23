"""What a shell offers after TAB: resources, the Services of a running proxy, and so on.

A shell waits for it and shows no errors: it gives up soon, and then offers nothing.

Typer gives no function the words before the one that is completed. What it has read of them is in
its context: arguments and options, by the names of the command's parameters.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import typer
from typer import completion

from kproxy import errors
from kproxy.cli.parse import asked_resources
from kproxy.ops.serving import places
from kproxy.ops.views import control_client

SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
PATIENCE = 0.5
"""Seconds to wait for a proxy."""


def resources_and_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Completions of an argument of `get`."""
    return _arguments(ctx, incomplete, asked_resources.KINDS)


def services_and_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Completions of an argument of `describe`."""
    return _arguments(ctx, incomplete, asked_resources.KINDS[:1])


def services(ctx: typer.Context, incomplete: str) -> list[str]:
    """The Services of the namespace, or those of the namespace before a slash."""
    namespace, slash, name = incomplete.rpartition("/")
    found = _names(ctx, asked_resources.KINDS[0], namespace)
    return [f"{namespace}{slash}{each}" for each in found if each.startswith(name)]


def namespaces(ctx: typer.Context, incomplete: str) -> list[str]:
    """The namespaces of the Services of a proxy."""
    found = {str(view["namespace"]) for view in _views(ctx, "services", "")}
    return sorted(each for each in found if each.startswith(incomplete))


def words(offered: Sequence[str]) -> Callable[[str], list[str]]:
    """A function that completes one of these words."""

    def complete(incomplete: str) -> list[str]:
        return [each for each in offered if each.startswith(incomplete)]

    return complete


def show(shell: str) -> None:
    """Print the script that makes a shell ask kproxy. Raises ConfigError for an unknown shell."""
    _check(shell, "--show-completion")
    script = completion.get_completion_script  # type: ignore[attr-defined]  # it is imported there
    typer.echo(script(prog_name=_NAME, complete_var=_ASKING, shell=shell))


def install(shell: str) -> None:
    """Write the script to where a shell looks for it. Raises ConfigError and OSError."""
    _check(shell, "--install-completion")
    put = completion.install  # type: ignore[attr-defined]  # it is imported there
    _, path = put(shell=shell, prog_name=_NAME, complete_var=_ASKING)
    typer.echo(f"{shell} completion installed in {path}; it takes effect in new shells")


_NAME = "kproxy"
_ASKING = "_KPROXY_COMPLETE"


def _check(shell: str, flag: str) -> None:
    if shell not in SHELLS:
        raise errors.ConfigError(f"{flag} {shell}: there are {', '.join(SHELLS)}")


def _arguments(
    ctx: typer.Context, incomplete: str, kinds: Sequence[asked_resources.Kind]
) -> list[str]:
    """Resources, and behind one of them the names of what it has; `svc,e`, `svc/w` too."""
    given: list[str] = list(ctx.params.get("arguments") or ())
    word, slash, name = incomplete.rpartition("/")
    try:
        if slash or (given and "/" not in given[0]):
            kind = asked_resources.wanted([word or given[0]])[0].kind
            found = [each for each in _names(ctx, kind, "") if each not in given]
            return [f"{word}{slash}{each}" for each in found if each.startswith(name)]
    except errors.ConfigError:
        return []
    if given:
        return []
    before, comma, last = incomplete.rpartition(",")
    found = [kind.plural for kind in kinds if kind.plural.startswith(last)]
    return [f"{before}{comma}{each}" for each in found]


def _names(ctx: typer.Context, kind: asked_resources.Kind, namespace: str) -> list[str]:
    """The names of what `kind` has in `namespace`, or in the one that is asked for."""
    if not namespace and not ctx.params.get("all_namespaces"):
        namespace = ctx.params.get("namespace") or "default"
    # Most resources are named by their Services, and a Service may have none of them.
    resource = kind.plural if kind.name_field == "name" else "services"
    return sorted({str(view["name"]) for view in _views(ctx, resource, namespace)})


def _views(ctx: typer.Context, resource: str, namespace: str) -> list[asked_resources.View]:
    given = ctx.params.get("control")
    try:
        path = Path(given) if given else places.default_control_path(os.environ, os.geteuid())
        return control_client.fetch(path, resource, namespace=namespace, timeout=PATIENCE)
    except Exception:
        return []
