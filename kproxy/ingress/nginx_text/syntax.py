"""nginx's syntax: the one way in which values become text of a configuration.

A configuration is made of `Directive`s and `Block`s, and every word of one goes through `_word`:
it is quoted unless it is plain, so that it cannot end a directive or begin another. What nginx
would evaluate in a word, variables and groups, comes as parts of a `Template`, which no text of
a user becomes; a `$` in text stays a `$`. Directives other than those below cannot be made: none of
them reads a file whose name a user gives, runs a program, or loads a module.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

LONGEST_WORD = 4000
"""Bytes: nginx refuses a word that does not fit into its buffer of 4,096."""

DOLLAR = "kproxy_dollar"
"""The variable that holds a `$`: nginx has no way to write one where it evaluates variables."""

_PLAIN = re.compile(r"[A-Za-z0-9_./:=*@%,+-]+|\^~|~\*?|!~\*?", re.ASCII)
_NAME = re.compile(r"[a-z0-9_]+", re.ASCII)
_KEYWORD = re.compile(r"default|\*|[0-9]{1,2}\.[0-9]{2}%", re.ASCII)
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, and halves of characters, which no encoding has."""

_NEVER: frozenset[int] = frozenset()
_FIRST = frozenset({0})
_SECOND = frozenset({1})

# In which of a directive's words nginx looks for variables, by their places.
_EVALUATED = {
    "add_header": _SECOND,
    "allow": _NEVER,
    "client_body_temp_path": _NEVER,
    "client_max_body_size": _NEVER,
    "daemon": _NEVER,
    "default_type": _NEVER,
    "deny": _NEVER,
    "error_log": _NEVER,
    "error_page": frozenset({2}),
    "events": _NEVER,
    "access_log": _NEVER,
    "fastcgi_temp_path": _NEVER,
    "geo": _NEVER,
    "grpc_connect_timeout": _NEVER,
    "grpc_ignore_headers": _NEVER,
    "grpc_next_upstream": _NEVER,
    "grpc_pass": _FIRST,
    "grpc_read_timeout": _NEVER,
    "grpc_send_timeout": _NEVER,
    "grpc_set_header": _SECOND,
    "http": _NEVER,
    "http2": _NEVER,
    "if": _NEVER,
    "keepalive": _NEVER,
    "keepalive_requests": _NEVER,
    "keepalive_timeout": _NEVER,
    "listen": _NEVER,
    "location": _NEVER,
    "lock_file": _NEVER,
    "map": _FIRST,
    "map_hash_bucket_size": _NEVER,
    "map_hash_max_size": _NEVER,
    "pid": _NEVER,
    "proxy_buffering": _NEVER,
    "proxy_connect_timeout": _NEVER,
    "proxy_http_version": _NEVER,
    "proxy_ignore_headers": _NEVER,
    "proxy_next_upstream": _NEVER,
    "proxy_pass": _FIRST,
    "proxy_read_timeout": _NEVER,
    "proxy_send_timeout": _NEVER,
    "proxy_set_header": _SECOND,
    "proxy_temp_path": _NEVER,
    "recursive_error_pages": _NEVER,
    "reset_timedout_connection": _NEVER,
    "return": _SECOND,
    "rewrite": _SECOND,
    "scgi_temp_path": _NEVER,
    "server": _NEVER,
    "server_name": _NEVER,
    "server_names_hash_bucket_size": _NEVER,
    "server_names_hash_max_size": _NEVER,
    "server_tokens": _NEVER,
    "set": _NEVER,
    "split_clients": _FIRST,
    "ssl_certificate": _FIRST,
    "ssl_certificate_key": _FIRST,
    "ssl_ciphers": _NEVER,
    "ssl_prefer_server_ciphers": _NEVER,
    "ssl_protocols": _NEVER,
    "ssl_session_cache": _NEVER,
    "ssl_session_tickets": _NEVER,
    "ssl_session_timeout": _NEVER,
    "stub_status": _NEVER,
    "upstream": _NEVER,
    "user": _NEVER,
    "uwsgi_temp_path": _NEVER,
    "variables_hash_bucket_size": _NEVER,
    "variables_hash_max_size": _NEVER,
    "worker_connections": _NEVER,
    "worker_processes": _NEVER,
    "worker_shutdown_timeout": _NEVER,
}

DIRECTIVES = frozenset(_EVALUATED)
"""The names of all directives that can be made."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of nginx, by its name without `$`."""

    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name of a variable")

    def __str__(self) -> str:
        return f"${{{self.name}}}"


@dataclass(frozen=True, slots=True)
class Group:
    """A group of the expression that matched, $1 to $9."""

    number: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= 9:
            raise ValueError(f"there is no group {self.number}")

    def __str__(self) -> str:
        return f"${self.number}"


@dataclass(frozen=True, slots=True)
class Template:
    """Text with variables and groups in it, which nginx puts together for each request."""

    parts: tuple[str | Variable | Group, ...]


@dataclass(frozen=True, slots=True)
class Regex:
    """A regular expression of PCRE, from `kproxy.ingress.rules.patterns` or written by us."""

    text: str


@dataclass(frozen=True, slots=True)
class Defined:
    """A variable where a block defines it: `map … $name { … }`."""

    variable: Variable


@dataclass(frozen=True, slots=True)
class Condition:
    """The condition of an `if`: a variable equals a word of ours."""

    variable: Variable
    value: str


@dataclass(frozen=True, slots=True)
class Exists:
    """The condition of an `if`: there is such a file, whose path is ours."""

    path: str


Word: TypeAlias = str | int | Variable | Template | Regex | Condition | Exists | Defined


@dataclass(frozen=True, slots=True, init=False)
class Directive:
    """`name words;`. Raises ValueError for a name that is not among `DIRECTIVES`."""

    name: str
    words: tuple[Word, ...]

    def __init__(self, name: str, *words: Word) -> None:
        if name not in _EVALUATED:
            raise ValueError(f"the directive {name!r} is not made here")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "words", words)


@dataclass(frozen=True, slots=True)
class Block:
    """`name words { … }`."""

    head: Directive
    body: Iterable["Statement"]


@dataclass(frozen=True, slots=True)
class Keyword:
    """What a key means that nginx does not compare: `default`, `*`, or a share such as `5.00%`."""

    text: str

    def __post_init__(self) -> None:
        if not _KEYWORD.fullmatch(self.text):
            raise ValueError(f"{self.text!r} is no keyword")


@dataclass(frozen=True, slots=True)
class Entry:
    """`key value;` in a `map`, `geo` or `split_clients`. Text as key matches itself only.

    nginx compares text without regard to case, and a Regex with. A `geo` has no variables.
    """

    key: str | Regex | Keyword
    value: Word
    is_evaluated: bool = True


Statement: TypeAlias = Directive | Block | Entry


def lines(statements: Iterable[Statement], depth: int = 0) -> Iterator[str]:
    """The lines of these statements, each with its line break."""
    for each in statements:
        yield from _lines_of(each, depth)


def _lines_of(statement: Statement, depth: int) -> Iterator[str]:
    indent = "  " * depth
    if isinstance(statement, Directive):
        yield f"{indent}{_head(statement)};\n"
    elif isinstance(statement, Entry):
        value = _word(statement.value, is_evaluated=statement.is_evaluated)
        yield f"{indent}{_key(statement.key)} {value};\n"
    else:
        yield f"{indent}{_head(statement.head)} {{\n"
        for each in statement.body:
            yield from _lines_of(each, depth + 1)
        yield f"{indent}}}\n"


def _head(directive: Directive) -> str:
    places = _EVALUATED[directive.name]
    words = [
        _word(word, is_evaluated=place in places) for place, word in enumerate(directive.words)
    ]
    return " ".join([directive.name, *words])


def _key(key: str | Regex | Keyword) -> str:
    if isinstance(key, Keyword):
        return key.text
    if isinstance(key, Regex):
        return _quoted(f"~{key.text}")
    # Without the backslash "include", "default" and such would be obeyed instead of compared.
    return _quoted(f"\\{key}") if key else '""'


def _word(word: Word, *, is_evaluated: bool) -> str:
    """A word as nginx reads it back: the only place where a value becomes text."""
    if isinstance(word, Condition):
        return f"(${word.variable.name} = {_word(word.value, is_evaluated=False)})"
    if isinstance(word, Exists):
        return f"(-f {_word(word.path, is_evaluated=False)})"
    if isinstance(word, Defined):
        return f"${word.variable.name}"
    if isinstance(word, Regex):
        return _quoted(word.text)
    if isinstance(word, str | int):
        text = str(word)
        if _PLAIN.fullmatch(text):
            return text
        return _quoted(_without_dollar(text) if is_evaluated else text)
    if not is_evaluated:
        raise ValueError("nginx does not evaluate variables in this place")
    parts = word.parts if isinstance(word, Template) else (word,)
    return _quoted(
        "".join(_without_dollar(each) if isinstance(each, str) else str(each) for each in parts)
    )


def _without_dollar(text: str) -> str:
    return text.replace("$", f"${{{DOLLAR}}}")


def _quoted(text: str) -> str:
    """`text` in quotes. Raises ValueError for what no quotes can hold."""
    if found := _NO_TEXT.search(text):
        raise ValueError(f"a word of nginx's configuration cannot contain {found[0]!r}")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    if len(escaped.encode()) > LONGEST_WORD:
        raise ValueError(f"a word of nginx's configuration has at most {LONGEST_WORD} bytes")
    return f'"{escaped}"'
