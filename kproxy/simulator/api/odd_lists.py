"""Faulty answers to lists: in their content, and in how they arrive."""

import asyncio

from aiohttp import web

from kproxy.simulator.api import server_faults
from kproxy.simulator.api.reading import lists
from kproxy.simulator.store.resources import Resource

_MADE_UP = "~"
"""Prefix of the keys in the tokens of endless pages: it sorts after every name."""
_ITEMS = 5
"""Objects on each endless page, if the client sets no limit."""
_MOST_ITEMS = 500
_FIELDS = 1000
"""Fields that are written at a time."""


def altered(kind: server_faults.Kind, page: lists.Page, options: lists.Options) -> lists.Page:
    """The page with the continue token of `REPEATED_CONTINUE` or `ENDLESS_PAGES`."""
    version = int(page.metadata["resourceVersion"])
    start = lists.decoded_token(options.continue_from)[1] if options.continue_from else ""
    if kind is server_faults.Kind.REPEATED_CONTINUE:
        token = options.continue_from or lists.encoded_token(version, "-")
        return lists.Page(page.items, {**page.metadata, "continue": token})
    number = _number(start)
    items = [
        {"metadata": {"name": f"endless-{number}-{each}", "namespace": "default"}}
        for each in range(min(options.limit or _ITEMS, _MOST_ITEMS))
    ]
    token = lists.encoded_token(version, f"{_MADE_UP}{number + 1}")
    return lists.Page(items if number else page.items, {**page.metadata, "continue": token})


def _number(start: str) -> int:
    """Which of the endless pages begins with this key; 0 if none does."""
    digits = start.removeprefix(_MADE_UP)
    is_ours = start.startswith(_MADE_UP) and digits.isascii() and digits.isdigit()
    return int(digits) if is_ours and len(digits) < 20 else 0


async def dripped(request: web.BaseRequest, body: bytes, seconds: float) -> web.StreamResponse:
    """Answer with `body`, a byte at a time, with `seconds` between two."""
    response = _response()
    await response.prepare(request)
    for byte in body:
        await response.write(bytes((byte,)))
        await asyncio.sleep(seconds)
    return response


async def endless(request: web.BaseRequest, resource: Resource) -> None:
    """Answer with a list whose metadata does not end, until the client leaves."""
    response = _response()
    await response.prepare(request)
    head = f'{{"kind":"{resource.kind}List","apiVersion":"{resource.api_version}","metadata":{{'
    await response.write(head.encode())
    number = 0
    while True:
        fields = (f'"field-{number + each}":"{each}",' for each in range(_FIELDS))
        await response.write("".join(fields).encode())
        number += _FIELDS
        await asyncio.sleep(0)


async def cut(request: web.BaseRequest) -> None:
    """Answer with the beginning of a list and a reset. Raises ConnectionResetError."""
    response = _response()
    await response.prepare(request)
    await response.write(b'{"kind":"')
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError("closed in the middle, as ordered")


def _response() -> web.StreamResponse:
    return web.StreamResponse(headers={"Content-Type": "application/json"})
