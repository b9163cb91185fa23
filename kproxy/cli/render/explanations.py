"""An explanation as text: the steps with a mark each, then the answer, then what to do."""

from collections.abc import Iterator

from kproxy import errors
from kproxy.explain.answer import Answer
from kproxy.explain.evidence import Evidence

_MARKS = {True: "ok  ", False: "no  ", None: "    "}


def text(answer: Answer, known: Evidence) -> str:
    """For a terminal or a pipe. What objects say, such as a selector, drives no terminal."""
    return "\n".join(map(errors.printable, _lines(answer, known)))


def _lines(answer: Answer, known: Evidence) -> Iterator[str]:
    asked = known.question
    client = f" from {asked.client}" if asked.client else ""
    where = f" to {asked.to}" if asked.to else ""
    yield f"A connection{client}{where} to Service {asked.service}:".replace("  ", " ")
    width = max((len(step.name) for step in answer.steps), default=0)
    for step in answer.steps:
        finding = "see below" if step.finding == answer.message else step.finding
        yield f"  {_MARKS[step.is_good]}{step.name.ljust(width)}  {finding}"
    yield ""
    yield f"{answer.verdict.value.upper()}: {answer.message}."
    if answer.advice:
        yield f"What to do: {answer.advice}{'' if answer.advice.endswith('?') else '.'}"
