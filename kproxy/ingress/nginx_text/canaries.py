"""Canaries: variables that choose between the two upstreams of a route, for each request."""

from kproxy.ingress import table
from kproxy.ingress.nginx_text.syntax import (
    Block,
    Defined,
    Directive,
    Entry,
    Keyword,
    Regex,
    Statement,
    Variable,
)
from kproxy.ingress.rules import patterns

_DEFAULT = Keyword("default")
_YES, _NO = "1", "0"


class Canaries:
    """The variables of all canaries of a configuration."""

    def __init__(self) -> None:
        self._blocks: list[Statement] = []
        self._count = 0

    @property
    def blocks(self) -> list[Statement]:
        """What defines the variables, to stand before the servers."""
        return self._blocks

    @property
    def variables(self) -> int:
        """How many variables there are."""
        return len(self._blocks)

    def choose(self, rule: table.CanaryRule, main: str, other: str) -> Variable:
        """A variable that is `other` for the requests that the canary wants, else `main`."""
        self._count += 1
        answer = self._weighed(rule)
        if rule.cookie:
            answer = self._decided("cookie", rule.cookie, answer, _ALWAYS_OR_NEVER)
        if rule.header:
            header = rule.header.replace("-", "_")
            answer = self._decided("http", header, answer, _header_entries(rule))
        return self._map("upstream", answer, [Entry(_DEFAULT, main), Entry(_YES, other)])

    def _weighed(self, rule: table.CanaryRule) -> Variable:
        share = round(10_000 * min(rule.weight / rule.total, 1))
        variable = self._variable("weight")
        # Each request has an id of its own, and the same in every worker.
        if 0 < share < 10_000:
            shares = [
                Entry(Keyword(f"{share // 100}.{share % 100:02}%"), _YES),
                Entry(Keyword("*"), _NO),
            ]
        else:
            shares = [Entry(Keyword("*"), _YES if share else _NO)]
        head = Directive("split_clients", Variable("request_id"), Defined(variable))
        self._blocks.append(Block(head, shares))
        return variable

    def _decided(self, sort: str, name: str, answer: Variable, entries: list[Entry]) -> Variable:
        """What a header or a cookie says, else `answer`."""
        source = Variable(f"{sort}_{name}")
        return self._map(sort, source, [Entry(_DEFAULT, answer), *entries])

    def _map(self, sort: str, source: Variable, entries: list[Entry]) -> Variable:
        variable = self._variable(sort)
        self._blocks.append(Block(Directive("map", source, Defined(variable)), entries))
        return variable

    def _variable(self, sort: str) -> Variable:
        return Variable(f"kproxy_canary_{self._count}_{sort}")


# Of text nginx would not regard the case, as ingress-nginx does.
_ALWAYS_OR_NEVER = [Entry(Regex("^always$"), _YES), Entry(Regex("^never$"), _NO)]


def _header_entries(rule: table.CanaryRule) -> list[Entry]:
    if rule.header_value:
        return [Entry(Regex(f"^{escaped(rule.header_value)}$"), _YES)]
    if rule.header_pattern:
        return [Entry(Regex(f"{patterns.LIMIT}{rule.header_pattern}"), _YES)]
    return _ALWAYS_OR_NEVER


def escaped(text: str) -> str:
    """An expression of PCRE that matches `text` and nothing else."""
    return "".join(each if each.isalnum() and each.isascii() else f"\\{each}" for each in text)
