"""The annotations of a Service that give its endpoints weights; docs/annotations.md lists them."""

import re
from collections.abc import Mapping

from kproxy.model import addresses, weighting
from kproxy.model.judging import field_rules, findings

WEIGHTS = "kproxy.io/weights"
WEIGHT_LABEL = "kproxy.io/weight-label"

MAX_ENTRIES = 256
"""Endpoints and label values that one Service may name. Every different weight costs a pick."""

_NUMBER = re.compile(r"[0-9]{1,7}")
_SYNTAX = (
    "must be pairs such as v1=9,v2=1: a value of the pods' label or an endpoint's IP address, "
    f"and a weight from 0 to {weighting.MAX_WEIGHT}"
)


def read(annotations: Mapping[str, str], found: findings.Findings) -> weighting.Weights | None:
    """The weights that a Service asks for; None if it asks for none."""
    value = annotations.get(WEIGHTS, "")
    label = annotations.get(WEIGHT_LABEL)
    if label is not None and not field_rules.is_label_key(label):
        found.violate(_path(WEIGHT_LABEL), label, "must be the key of a label, such as version")
    by_address: dict[str, int] = {}
    by_label: dict[str, int] = {}
    pairs = [pair.strip() for pair in value.split(",")] if value.strip() else []
    if len(pairs) > MAX_ENTRIES:
        found.violate(_path(WEIGHTS), value, f"must be at most {MAX_ENTRIES} pairs")
        return None
    for pair in pairs:
        key, equals, number = (part.strip() for part in pair.rpartition("="))
        weight = int(number) if _NUMBER.fullmatch(number) else weighting.MAX_WEIGHT + 1
        address = addresses.parse(key)
        is_named = address is not None or field_rules.LABEL_VALUE.admits(key)
        if not equals or not is_named or weight > weighting.MAX_WEIGHT:
            found.violate(_path(WEIGHTS), pair, _SYNTAX)
        else:
            named, group = (address.text, by_address) if address else (key, by_label)
            if group.setdefault(named, weight) != weight:
                found.violate(_path(WEIGHTS), pair, f"must give {named} one weight")
    if label is not None and not by_label:
        found.notes.append(
            f"annotation {WEIGHT_LABEL} has no effect: {WEIGHTS} names no value of a label"
        )
    if not pairs:
        return None
    return weighting.Weights(
        tuple(by_address.items()), tuple(by_label.items()), label or weighting.DEFAULT_LABEL
    )


def _path(name: str) -> str:
    return f'metadata.annotations["{name}"]'
