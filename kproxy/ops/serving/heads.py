"""Heads of HTTP/1.1 messages: requests are read strictly, answers are written (RFC 9110, 9112).

Any client may connect to an ops server, so everything that is not plainly a request is refused:
bare LFs, folded lines, control characters, two lengths. Only GET and HEAD exist. Pure: no input or
output.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qsl

MAX_HEAD = 4096
"""Most bytes of a request's head: request line, headers and the empty line."""
MAX_BODY = 4096
"""Most bytes of a request's body. No answer depends on it."""
MAX_HEADERS = 64

END = b"\r\n\r\n"

_START = re.compile(
    rb"(?P<method>[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) (?P<target>[!-~]{1,4096}) "
    rb"HTTP/(?P<major>[0-9])\.(?P<minor>[0-9])"
)
_TARGET = re.compile(r"(?:http://[^/?#]+)?(?P<path>/[^?#]*)(?:\?(?P<query>[^#]*))?")
_HEADER = re.compile(rb"(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(?P<value>[\t -~\x80-\xff]*)")
_LENGTH = re.compile(r"[0-9]{1,19}", re.ASCII)
_REFUSES_GZIP = re.compile(r"gzip\s*;\s*q=0(\.0*)?\s*$")


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for. `query` has the last value of each name.

    The connection may carry another request after this one if it `keeps_alive`.
    """

    method: str
    path: str
    query: Mapping[str, str]
    is_http_10: bool
    keeps_alive: bool
    accepts_gzip: bool

    @property
    def wants_body(self) -> bool:
        """Whether the answer has a body: HEAD gets none."""
        return self.method != "HEAD"


class RefusedError(Exception):
    """A request that is not answered; the connection ends with `status`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def can_begin(text: bytes) -> bool:
    """Whether a request may begin like this: with a method, or an empty line, and no bare LF.

    A TLS handshake may not, nor may the one line of HTTP/0.9 or of a person at telnet: the end of
    its head would never come.
    """
    begins_well = text[:1].isalpha() or text[:2] == b"\r\n"[: len(text)]
    first, is_whole, _ = text.removeprefix(b"\r\n").partition(b"\r\n")
    if is_whole and _START.fullmatch(first) is None:
        return False
    return begins_well and text.count(b"\n") == text.count(b"\r\n")


def read_request(head: bytes) -> Request:
    """Read a head without its empty line. Raises RefusedError."""
    # A client may send an empty line before its request (RFC 9112, 2.2).
    first, *lines = head.removeprefix(b"\r\n").split(b"\r\n")
    start = _START.fullmatch(first)
    if start is None:
        raise RefusedError(HTTPStatus.BAD_REQUEST)
    if start["major"] != b"1":
        raise RefusedError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    headers = _read_headers(lines)
    is_http_10 = start["minor"] == b"0"
    if not is_http_10 and "host" not in headers:
        raise RefusedError(HTTPStatus.BAD_REQUEST)
    has_body = _check_body(headers)
    method = start["method"].decode()
    if method not in ("GET", "HEAD"):
        raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED)
    target = _TARGET.fullmatch(start["target"].decode())
    if target is None:
        raise RefusedError(HTTPStatus.BAD_REQUEST)
    asks_to_close = "close" in _words(headers.get("connection", ""))
    return Request(
        method=method,
        path=target["path"],
        query=_read_query(target["query"] or ""),
        is_http_10=is_http_10,
        keeps_alive=not (is_http_10 or has_body or asks_to_close),
        accepts_gzip=_accepts_gzip(headers.get("accept-encoding", "")),
    )


def _read_headers(lines: list[bytes]) -> dict[str, str]:
    """Headers by name in lower case; the values of a repeated header are joined by commas."""
    if len(lines) > MAX_HEADERS:
        raise RefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    headers: dict[str, str] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise RefusedError(HTTPStatus.BAD_REQUEST)
        name = found["name"].decode().lower()
        value = found["value"].decode("latin-1").rstrip(" \t")
        if name in headers:
            if name in ("host", "content-length", "transfer-encoding"):
                raise RefusedError(HTTPStatus.BAD_REQUEST)
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return headers


def _check_body(headers: Mapping[str, str]) -> bool:
    """Whether a body follows. Raises RefusedError if it is too long, or of unclear length.

    No answer depends on a body: it is not read, and the connection ends after the answer.
    """
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if length is not None and coding is not None:
        raise RefusedError(HTTPStatus.BAD_REQUEST)
    if coding is not None:
        if coding.lower() != "chunked":
            raise RefusedError(HTTPStatus.NOT_IMPLEMENTED)
        return True
    if length is None:
        return False
    if not _LENGTH.fullmatch(length):
        raise RefusedError(HTTPStatus.BAD_REQUEST)
    if int(length) > MAX_BODY:
        raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    if headers.get("expect", "").lower() not in ("", "100-continue"):
        raise RefusedError(HTTPStatus.EXPECTATION_FAILED)
    return int(length) > 0


def _read_query(text: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_HEADERS))
    except ValueError:
        raise RefusedError(HTTPStatus.BAD_REQUEST) from None


def _accepts_gzip(text: str) -> bool:
    return any(
        each.startswith("gzip") and not _REFUSES_GZIP.match(each)
        for each in map(str.strip, text.lower().split(","))
    )


def _words(text: str) -> list[str]:
    return [each.strip().lower() for each in text.split(",")]


def write_answer(status: int, headers: Mapping[str, str]) -> bytes:
    """The head of an answer, with the date. The length comes last, as in Go's answers."""
    last = [f"{name}: {value}" for name, value in headers.items() if name == "Content-Length"]
    lines = [
        f"HTTP/1.1 {int(status)} {HTTPStatus(status).phrase}",
        *(f"{name}: {value}" for name, value in headers.items() if name != "Content-Length"),
        "X-Content-Type-Options: nosniff",
        f"Date: {_date(time.gmtime())}",
        *last,
    ]
    return "\r\n".join(lines).encode("latin-1", "replace") + END


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)


def _date(moment: time.struct_time) -> str:
    """A moment as HTTP writes it (RFC 9110, 5.6.7). `strftime` would ask the locale."""
    day = f"{_DAYS[moment.tm_wday]}, {moment.tm_mday:02} {_MONTHS[moment.tm_mon - 1]}"
    return f"{day} {moment.tm_year} {time.strftime('%H:%M:%S', moment)} GMT"
