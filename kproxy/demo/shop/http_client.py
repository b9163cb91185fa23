"""GET over HTTP/1.1 on connections that stay open, without a retry of its own.

A library would repeat a request that met a closed connection, and the demonstration could not say
so. It knows what the pods and nginx send: bodies with a Content-Length.
"""

import asyncio
import contextlib
import ssl
from typing import NamedTuple, Self

_LONGEST_HEAD = 16 * 1024
_LONGEST_BODY = 64 * 1024


class NoAnswerError(Exception):
    """There was no whole answer; the text says why, in a few words."""


class Answer(NamedTuple):
    """An answer, whatever its status."""

    status: int
    body: str


class Connection:
    """One connection; `close` it, or leave its context."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._is_between_requests = True

    @property
    def is_usable(self) -> bool:
        """Whether another request may be sent: the last one was answered, and it is open."""
        is_closed = self._writer.transport.is_closing() or self._reader.at_eof()
        return self._is_between_requests and not is_closed

    @classmethod
    async def open(
        cls, address: str, port: int, tls: ssl.SSLContext | None = None, name: str | None = None
    ) -> Self:
        """Connect; with `tls` the server must prove to be `name`. Raises OSError as connect(2)."""
        reader, writer = await asyncio.open_connection(
            address, port, ssl=tls, server_hostname=name if tls else None, limit=_LONGEST_HEAD
        )
        return cls(reader, writer)

    async def get(self, path: str, host: str) -> Answer:
        """The answer to one request. Raises NoAnswerError and OSError; then it is not usable."""
        self._is_between_requests = False
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        try:
            await self._writer.drain()
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status_line, *lines = head.split("\r\n")
            headers = {
                name.lower(): value.strip()
                for name, colon, value in (line.partition(":") for line in lines)
                if colon
            }
            length = int(headers["content-length"])
            if not 0 <= length <= _LONGEST_BODY:
                raise NoAnswerError("an answer too long")
            body = await self._reader.readexactly(length)
            status = int(status_line.split()[1])
        except asyncio.IncompleteReadError as error:
            what = "closed in the middle of an answer" if error.partial else "closed unanswered"
            raise NoAnswerError(what) from error
        except (KeyError, ValueError, IndexError, asyncio.LimitOverrunError) as error:
            raise NoAnswerError("an answer that is not HTTP") from error
        self._is_between_requests = headers.get("connection", "").lower() != "close"
        return Answer(status, body.decode(errors="replace"))

    def close(self) -> None:
        """Close it, without waiting for the other side."""
        self._writer.transport.abort()


async def get(
    address: str,
    port: int,
    path: str,
    host: str,
    seconds: float,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """One request on a connection of its own. Raises NoAnswerError with the reason."""
    try:
        async with asyncio.timeout(seconds):
            connection = await Connection.open(address, port, tls, host)
            with contextlib.closing(connection):
                return await connection.get(path, host)
    except (OSError, TimeoutError) as error:
        raise NoAnswerError(reason(error)) from error


def reason(error: BaseException) -> str:
    """Why there was no answer, in a few words."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "connection reset"
    if isinstance(error, ssl.SSLError):
        return "TLS failed"
    return str(error) or type(error).__name__
