"""Remarks about one Ingress, collected as the rules look at it."""

from kproxy.ingress import table
from kproxy.model import admission, names

MOST = 5
"""Of one Ingress. More are counted, so that one object cannot fill the log."""


class Remarks:
    """What there is to say about one Ingress, each thing once."""

    def __init__(self, ingress: names.NamespacedName) -> None:
        self._ingress = ingress
        self._made: dict[tuple[str, str], table.Problem] = {}
        self._hidden = 0

    def warn(self, reason: str, text: str) -> None:
        """Something is not done that the Ingress asks for."""
        self._add(reason, text, admission.Severity.WARNING)

    def note(self, reason: str, text: str) -> None:
        """Nothing is wrong, and yet it may surprise."""
        self._add(reason, text, admission.Severity.NOTE)

    def problems(self) -> tuple[table.Problem, ...]:
        """All of them, the last one with the number of those that are left out."""
        made = tuple(self._made.values())
        if not self._hidden:
            return made
        text = f"{self._hidden} more problems"
        return (*made, table.Problem(self._ingress, "MoreProblems", text))

    def _add(self, reason: str, text: str, severity: admission.Severity) -> None:
        if (reason, text) in self._made:
            return
        if len(self._made) >= MOST:
            self._hidden += 1
            return
        self._made[reason, text] = table.Problem(self._ingress, reason, text, severity)
