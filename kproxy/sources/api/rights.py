"""The remedy for a missing right: the kubectl commands that grant it."""

import re
import shlex
from collections.abc import Iterable

from kproxy.sources.api import discovery

_USER = re.compile(r'User "([^"]+)"')
_SERVICE_ACCOUNT = re.compile(r"system:serviceaccount:([^:]+:[^:]+)")


def remedy(
    verb: str,
    resource: discovery.Resource,
    namespace: str,
    said: str,
    choices: Iterable[discovery.Choice],
) -> str:
    """A clause with the missing right and the kubectl commands for an administrator.

    `said` is the server's message, in which it names the user; a namespace of "" means all.
    `choices` are all that the source follows: the commands grant the rights to all of it.
    """
    scope = f"in namespace {namespace}" if namespace else "in all namespaces"
    kind = "role" if namespace else "clusterrole"
    place = f" --namespace={namespace}" if namespace else ""
    resources = ",".join(
        str(resource if resource.kind in choice.kinds else choice.best) for choice in choices
    )
    return (
        f"the right to {verb} {resource} {scope} is missing; an administrator can grant it by: "
        f"kubectl create {kind} kproxy{place} --verb=list,watch --resource={resources}"
        f" && kubectl create {kind}binding kproxy{place} --{kind}=kproxy {_subject(said)}"
    )


def _subject(said: str) -> str:
    user = _USER.search(said)
    if user is None:
        return "--user=NAME"
    account = _SERVICE_ACCOUNT.fullmatch(user[1])
    return f"--serviceaccount={account[1]}" if account else f"--user={shlex.quote(user[1])}"
