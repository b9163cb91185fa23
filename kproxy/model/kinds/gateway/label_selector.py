"""`metav1.LabelSelector`, by the rules of apimachinery's validation package."""

import msgspec

from kproxy.model import labels
from kproxy.model.judging import field_rules, findings


class Expression(msgspec.Struct, frozen=True, gc=False):
    """`matchExpressions[]`."""

    key: str | None = None
    operator: str | None = None
    values: tuple[str, ...] | None = None


class LabelSelector(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A selector; an empty one selects everything."""

    match_labels: dict[str, str] | None = None
    match_expressions: tuple[Expression, ...] | None = None


_OPERATORS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}


def requirements(
    selector: LabelSelector, where: str, found: findings.Findings
) -> tuple[labels.Requirement, ...]:
    """The conditions of a selector, all of which must hold."""
    made = []
    for key, value in (selector.match_labels or {}).items():
        _check_key(key, f"{where}.matchLabels", found)
        if value and not field_rules.LABEL_VALUE.admits(value):
            found.violate(f"{where}.matchLabels[{key}]", value, field_rules.LABEL_VALUE.words)
        made.append(labels.Requirement(key, "in", frozenset({value})))
    for index, each in enumerate(selector.match_expressions or ()):
        place = f"{where}.matchExpressions[{index}]"
        _check_key(each.key or "", f"{place}.key", found)
        operator = _OPERATORS.get(each.operator or "")
        if operator is None:
            found.violate(f"{place}.operator", each.operator, f"must be {_listed()}")
            continue
        has_values = bool(each.values)
        if has_values is not (operator in ("in", "notin")):
            rule = "must be given" if not has_values else "must not be given"
            found.violate(
                f"{place}.values", list(each.values or ()), f"{rule} with {each.operator}"
            )
        made.append(labels.Requirement(each.key or "", operator, frozenset(each.values or ())))
    return tuple(made)


def _check_key(key: str, where: str, found: findings.Findings) -> None:
    if not field_rules.is_label_key(key):
        found.violate(where, key, "must be the key of a label")


def _listed() -> str:
    *first, last = _OPERATORS
    return f"{', '.join(first)} or {last}"
