"""What judging one object brings to light: broken rules, refused addresses, notes."""

from dataclasses import dataclass, field
from typing import NamedTuple

from kproxy.model import objects


class Violation(NamedTuple):
    """One broken rule: the field's path, the value found in words, the rule ("must be ...")."""

    field: str
    found: str
    rule: str

    def __str__(self) -> str:
        return f"{self.field} is {self.found} but {self.rule}"


@dataclass(slots=True)
class Findings:
    """What checking one object brought to light, collected as the checks go along.

    `violations` make the object invalid. `refused` are endpoint addresses left out by the
    address policy, the rest of the object being good. `notes` explain what is not an error.
    """

    violations: list[Violation] = field(default_factory=list)
    refused: list[Violation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def violate(self, where: str, value: object, rule: str) -> None:
        """Record that `value` at the field path `where` breaks `rule`."""
        self.violations.append(Violation(where, objects.shown(value), rule))

    def refuse(self, where: str, value: object, rule: str) -> None:
        """Record that the endpoint address `value` is left out because of `rule`."""
        self.refused.append(Violation(where, objects.shown(value), rule))
