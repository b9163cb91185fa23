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
    made = web.Response(status=answer.status)
    if answer.status not in _WITHOUT_BODY:
        if answer.body is not None:
            made.text = answer.body
        elif "application/json" in request.headers.get("Accept", ""):
            made = web.json_response(_facts(pod, addresses, request, length), status=answer.status)
        else:
            made.text = _text(_facts(pod, addresses, request, length))
    made.headers.update(answer.headers)
    return made


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
    headers: dict[str, list[str]] = {}
    for name, value in request.headers.items():
        headers.setdefault(name, []).append(value)
    return {**facts, "headers": headers}


def _text(facts: dict[str, Any]) -> str:
    """A line for each fact, and for each value of a header."""
    lines = [f"{name}: {value}" for name, value in facts.items() if name != "headers"]
    lines += [
        f"header {name}: {each}" for name, found in facts["headers"].items() for each in found
    ]
    return "\n".join(lines) + "\n"
