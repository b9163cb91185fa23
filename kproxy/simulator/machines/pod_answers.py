"""The HTTP answers of a pod: what its annotation orders, else what it says of itself."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from aiohttp import web

from kproxy.simulator.kinds.behaviour import answers
from kproxy.simulator.store.storage import Object

Program: TypeAlias = Callable[[Object, web.BaseRequest], Awaitable[web.Response | None]]
"""What the containers of a cluster run: gets a pod and a request to it, whose body has been read.

None leaves the answer to the pod's annotations.
"""

_WITHOUT_BODY = (204, 304)


async def body_length(request: web.BaseRequest) -> int:
    """Read the body of a request, whatever its size, and keep nothing. Its length in bytes.

    A body that stays unread would end the connection, which the client means to use again.
    """
    length = 0
    if not request.body_exists:
        return length
    async for chunk in request.content.iter_any():
        length += len(chunk)
    return length


def response(
    answer: answers.Answer,
    pod: Object,
    addresses: Sequence[str],
    request: web.BaseRequest,
    length: int,
) -> web.Response:
    """The response to a request with a body of `length` bytes."""
    headers = answer.headers
    if answer.status in _WITHOUT_BODY:
        return web.Response(status=answer.status, headers=headers)
    text = answer.body
    if text is None:
        facts = _facts(pod, addresses, request, length)
        if "application/json" in request.headers.get("Accept", ""):
            return web.json_response(
                {**facts, "headers": _headers(request)}, status=answer.status, headers=headers
            )
        lines = [f"{name}: {value}" for name, value in facts.items()]
        lines += [f"header {name}: {value}" for name, value in request.headers.items()]
        text = "\n".join(lines) + "\n"
    # A type among the headers is not to be given as well.
    body = {"body": text.encode()} if "content-type" in map(str.lower, headers) else {"text": text}
    return web.Response(status=answer.status, headers=headers, **body)


def _facts(
    pod: Object, addresses: Sequence[str], request: web.BaseRequest, length: int
) -> dict[str, Any]:
    """This pod, the request, and the client."""
    metadata = pod["metadata"]
    facts: dict[str, Any] = {
        "pod": metadata["name"],
        "namespace": metadata["namespace"],
        "node": pod["spec"]["nodeName"],
        "pod-ip": ",".join(addresses),
        "client": request.remote or "",
        "request": f"{request.method} {request.raw_path}",
    }
    if request.secure:
        facts["scheme"] = "https"
    if length:
        facts["body-bytes"] = length
    return facts


def _headers(request: web.BaseRequest) -> dict[str, list[str]]:
    """The values of each header."""
    found: dict[str, list[str]] = {}
    for name, value in request.headers.items():
        found.setdefault(name, []).append(value)
    return found
