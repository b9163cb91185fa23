"""The problem report for a failed list or watch. Pure."""

from collections.abc import Iterable

from kproxy.model import admission
from kproxy.sources import source
from kproxy.sources.api import client, discovery, rights
from kproxy.sources.api.decisions import progress

_SEVERITIES = dict.fromkeys(
    (
        progress.Outcome.BUG,
        progress.Outcome.CREDENTIALS,
        progress.Outcome.FORBIDDEN,
        progress.Outcome.TLS_FAILED,
        progress.Outcome.UNAUTHORIZED,
    ),
    admission.Severity.ERROR,
)
"""Severities of troubles that need an operator. Other troubles may pass by themselves."""

DEAFNESS = "the watch does not bring what another one brings"
SILENCE = "the server does not answer any more"


def problem(
    where: str,
    ending: client.RequestError,
    mode: progress.Mode,
    resource: discovery.Resource | None,
    namespace: str,
    choices: Iterable[discovery.Choice],
    *,
    has_listed: bool,
) -> source.Problem:
    """The problem that `ending` is to users, with its consequence, and the remedy if it is known.

    `where` is the collection in words. `choices` are all that the source follows. `has_listed`:
    the collection has been listed, so that there is something to serve.
    """
    verb = progress.Mode.LIST if mode is progress.Mode.LIST else progress.Mode.WATCH
    text = f"cannot {verb}: {ending.text}"
    if ending.outcome is progress.Outcome.FORBIDDEN and resource is not None:
        text += f"; {rights.remedy(verb, resource, namespace, ending.text, choices)}"
    outcome = "what was last known is served" if has_listed else "nothing is known yet"
    severity = _SEVERITIES.get(ending.outcome, admission.Severity.WARNING)
    return source.Problem(severity, where, "", text, outcome)
