"""What an ops server answers, as plain data."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
JSON_LINES = "application/x-ndjson"

Body: TypeAlias = AsyncGenerator[bytes, None]
"""A body that is made while it is sent. The server closes it, also when the client has gone."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, headers and a body.

    The body of an answer that `is_endless` goes on until the client leaves. Its chunks may be
    empty: the server then looks whether the client is still there, and closes the body if not.
    A body that `may_be_compressed` is sent with gzip to clients that accept it.
    """

    status: int
    body: Body | bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    is_endless: bool = False
    may_be_compressed: bool = False


def sentence(status: int, text: str, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, text.encode(), TEXT, headers or {})
