"""What a pod answers on which path: the annotation `kproxy.io/answers`, a map in YAML or JSON.

/users: {body: '[{"id": 1}]', headers: {Content-Type: application/json}}
/old/: {status: 301, headers: {Location: /new}}
/slow: {delay: 2.5}
"""

import functools
import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from kproxy.sources.documents import reading

ANNOTATION_ANSWERS = "kproxy.io/answers"

LONGEST = 64 * 1024
"""Characters in the annotation."""

_TOKEN = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_OF_SERVER = frozenset({"connection", "content-length", "transfer-encoding", "upgrade"})
"""Headers that the server writes itself, for the connection to stay readable."""


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An answer. Without a `body` it is what the pod says of itself and the request.

    `delay` is in seconds, on top of the pod's own.
    """

    status: Annotated[int, msgspec.Meta(ge=200, le=599)] = 200
    body: str | None = None
    delay: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 0.0
    headers: dict[str, str] = {}


def parse(text: str) -> Mapping[str, Answer]:
    """The answers by path. Raises ValueError with what is wrong, as a clause."""
    if len(text) > LONGEST:
        raise ValueError(f"must have no more than {LONGEST} characters")
    answers = msgspec.convert(_document(text), dict[str, Answer])
    for path, answer in answers.items():
        if not path.startswith("/"):
            raise ValueError(f"must name paths that begin with '/', unlike {path!r}")
        for name, value in answer.headers.items():
            if not _TOKEN.fullmatch(name) or name.lower() in _OF_SERVER:
                raise ValueError(f"must not set the header {name!r}")
            if not value.isprintable():
                raise ValueError(f"must not have control characters in the header {name}")
    return answers


def _document(text: str) -> Any:
    found = list(reading.read_yaml(text.encode(errors="replace")))
    if len(found) != 1:
        raise ValueError("must be one map of paths, such as {/users: {body: hello}}")
    if found[0].flaw:
        raise ValueError(f"is not YAML: {found[0].flaw}")
    return found[0].value


@functools.lru_cache(maxsize=256)
def _known(text: str) -> Mapping[str, Answer]:
    return parse(text)


def answer_to(pod: Mapping[str, Any], path: str) -> Answer:
    """The answer of a pod, whose annotations are valid, to a request for `path`.

    A key that ends in "/" is for all paths that begin with it; the longest key that fits counts.
    """
    text = (pod["metadata"].get("annotations") or {}).get(ANNOTATION_ANSWERS, "")
    if not text:
        return _DEFAULT
    fitting = {
        key: answer
        for key, answer in _known(text).items()
        if path == key or (key.endswith("/") and path.startswith(key))
    }
    return fitting[max(fitting, key=len)] if fitting else _DEFAULT


_DEFAULT = Answer()
