"""What a shell offers after TAB: resources, and the Services of a running proxy.

A shell waits for it and shows no errors: it gives up soon, and then offers nothing.
"""

import os

from kproxy.cli.parse import asked_resources
from kproxy.ops.serving import places
from kproxy.ops.views import control_client

_PATIENCE = 0.5
"""Seconds to wait for a proxy."""


def arguments(args: list[str], incomplete: str) -> list[str]:
    """Completions of an argument of `get` or `describe`."""
    given = [each for each in args if not each.startswith("-")]
    word, slash, name = incomplete.partition("/")
    if slash:
        return [f"{word}/{each}" for each in services(name)]
    if given:
        return services(incomplete)
    return [kind.plural for kind in asked_resources.KINDS if kind.plural.startswith(incomplete)]


def services(incomplete: str) -> list[str]:
    """The names of Services of any namespace that begin with `incomplete`."""
    try:
        path = places.default_control_path(os.environ, os.geteuid())
        views = control_client.fetch(path, "services", timeout=_PATIENCE)
    except Exception:
        return []
    names = sorted({str(view["name"]) for view in views})
    return [name for name in names if name.startswith(incomplete)]
