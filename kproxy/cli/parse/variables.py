"""Environment variables that look like settings, and are none."""

import re
from collections.abc import Collection, Iterator, Mapping

_PREFIX = "KPROXY_"
_OF_A_SERVICE = re.compile(r".+_(SERVICE_(HOST|PORT)(_.*)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_.*)?)?)")
"""A variable that a kubelet sets in pods, for each Service of the namespace."""
_LIKENESS = 0.85
"""How like a setting's variable another one must be, from 0 to 1, to be taken for a slip: a letter
too many, or two. Others belong to other programs."""


def misspelt(known: Collection[str], environment: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each variable that is nearly one of those that are `known`."""
    for name in sorted(environment):
        if not name.startswith(_PREFIX) or name in known or _OF_A_SERVICE.fullmatch(name):
            continue
        if meant := _nearest(name, known):
            yield f"{name} is no setting, and is ignored: did you mean {meant}?"


def _nearest(name: str, known: Collection[str]) -> str:
    """The most similar of them; "" if none is similar."""
    import difflib  # noqa: PLC0415  # hardly ever needed

    found = difflib.get_close_matches(name, known, n=1, cutoff=_LIKENESS)
    return found[0] if found else ""
