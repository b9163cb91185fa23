"""The client of a running proxy's control socket."""

import contextlib
import http.client
import json
import re
import socket
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlencode

import msgspec

from kproxy import errors
from kproxy.explain import evidence
from kproxy.model.kinds import endpoints, services

Held: TypeAlias = tuple[services.Service, tuple[endpoints.EndpointsObject, ...]]
"""A Service and its endpoint objects."""

_HELD = msgspec.json.Decoder(Held)
_TIMEOUT = 30.0
_WARNING = re.compile(r'299 - "(?P<text>[^"]*)"')
"""As Kubernetes API servers write it (KEP-1693)."""


_PORT = ("namespace", "service", "port_name", "protocol")
IDENTITIES: Mapping[str, tuple[str, ...]] = {
    "services": ("namespace", "name", "port_name", "protocol"),
    "gateways": ("namespace", "name", "listener", "protocol"),
    "routes": (
        *("namespace", "name", "protocol"),
        *("gateway_namespace", "gateway", "listener", "port"),
    ),
    "endpoints": (*_PORT, "address", "port"),
    "affinity": (*_PORT, "scope", "client"),
    "connections": (
        *_PORT,
        *("client_address", "client_port", "frontend_address", "frontend_port"),
    ),
    "ingresses": ("namespace", "name"),
    "hosts": ("namespace", "service", "address", "hostname"),
}
"""The fields that identify a view of a resource; the object of a `DELETED` has only these."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP to a unix socket. Raises OSError as connect(2) does."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def fetch(
    control: Path,
    resource: str,
    *,
    namespace: str = "",
    name: str = "",
    selector: str = "",
    on_warning: Callable[[str], object] = lambda _: None,
    timeout: float = _TIMEOUT,
) -> list[dict[str, Any]]:
    """The views of `resource` (see `control`), of any namespace or Service where "" is given.

    `selector` narrows them to Services with such labels. `on_warning` gets a sentence about all of
    them, for instance that they are out of date. Raises KproxyError when no proxy answers, and
    NotServedError when no Service `name` is served.
    """
    query = {"namespace": namespace, "name": name, "labelSelector": selector}
    views: list[dict[str, Any]] = _ask(control, resource, query, on_warning, timeout)
    return views


def fetch_status(
    control: Path, on_warning: Callable[[str], object] = lambda _: None
) -> dict[str, Any]:
    """What `status.proxy_view` made. Raises KproxyError when no proxy answers."""
    view: dict[str, Any] = _ask(control, "status", {}, on_warning)
    return view


def fetch_evidence(control: Path, question: evidence.Question) -> evidence.Evidence:
    """What a running proxy knows about the Service of a question. Raises KproxyError."""
    query = {
        "namespace": question.service.namespace,
        "name": question.service.name,
        "port": question.port,
        "from": question.client,
        "to": str(question.to or ""),
    }
    with _answered(control, "evidence", query, lambda _: None) as response:
        try:
            return evidence.decode(response.read())
        except (OSError, http.client.HTTPException, msgspec.MsgspecError) as error:
            raise _silence(control, error) from error


def fetch_objects(control: Path, namespace: str, name: str) -> list[Held]:
    """The Services that a running proxy knows, each with its endpoint objects.

    Raises KproxyError.
    """
    query = {"namespace": namespace, "name": name}
    with _answered(control, "objects", query, lambda _: None) as response:
        try:
            return [_HELD.decode(line) for line in response.read().splitlines()]
        except (OSError, http.client.HTTPException, msgspec.MsgspecError) as error:
            raise _silence(control, error) from error


def watch(
    control: Path,
    resource: str,
    *,
    namespace: str = "",
    name: str = "",
    selector: str = "",
    on_warning: Callable[[str], object] = lambda _: None,
) -> Generator[tuple[str, dict[str, Any]], None, None]:
    """The events of a watch on the views of `resource`, each with its object: see `watching`.

    Goes on until the caller closes it. Raises KproxyError as `fetch`, and when the proxy ends.
    """
    query = {"namespace": namespace, "name": name, "labelSelector": selector, "watch": "1"}
    with _answered(control, resource, query, on_warning) as response:
        try:
            while line := response.readline():
                event = json.loads(line)
                if event["type"] == "WARNING":
                    on_warning(event["object"]["message"])
                else:
                    yield event["type"], event["object"]
        except TimeoutError as error:
            raise errors.KproxyError(
                f"the kproxy at {control} has sent nothing for {_TIMEOUT:.0f} s"
            ) from error
        except (OSError, http.client.HTTPException, ValueError, LookupError):
            pass
    raise errors.KproxyError(f"the kproxy at {control} has ended, and the watch with it")


def _ask(
    control: Path,
    resource: str,
    query: dict[str, str],
    on_warning: Callable[[str], object],
    timeout: float = _TIMEOUT,
) -> Any:
    with _answered(control, resource, query, on_warning, timeout) as response:
        try:
            return json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _silence(control, error) from error


@contextlib.contextmanager
def _answered(
    control: Path,
    resource: str,
    query: dict[str, str],
    on_warning: Callable[[str], object],
    timeout: float = _TIMEOUT,
) -> Iterator[http.client.HTTPResponse]:
    """The answer to a request, its body not yet read. Raises KproxyError for a refusal."""
    given = {key: value for key, value in query.items() if value}
    connection = _UnixConnection(control, timeout)
    try:
        try:
            connection.request("GET", f"/v1/{resource}?{_encoded(given)}")
            response = connection.getresponse()
            refusal = b"" if response.status == http.client.OK else response.read()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _silence(control, error) from error
        if warning := _WARNING.fullmatch(response.getheader("Warning", "")):
            on_warning(warning["text"])
        if response.status != http.client.OK:
            raise _refused(control, response.status, refusal, query)
        yield response
    finally:
        connection.close()


def _encoded(query: Mapping[str, str]) -> str:
    """A query. Bytes of the command line that are no UTF-8 stay what they are."""
    return urlencode(query, errors="surrogateescape")


def _refused(control: Path, status: int, body: bytes, query: dict[str, str]) -> errors.KproxyError:
    if status == http.client.NOT_FOUND and query.get("name"):
        namespace = query["namespace"]
        where = f"in namespace {namespace}" if namespace else "in any namespace"
        return errors.NotServedError(
            f'service "{query["name"]}" not found {where}: '
            "kproxy get services -A lists what is served"
        )
    return errors.KproxyError(
        f"the proxy at {control} refused: {body.decode(errors='replace').strip()}; "
        "name another one's socket with --control"
    )


def _silence(control: Path, error: Exception) -> errors.KproxyError:
    said = " ".join(str(error).split())
    reason = getattr(error, "strerror", None) or said or type(error).__name__
    return errors.KproxyError(
        f"no kproxy answers at {control} ({reason}): start one with kproxy run, "
        "or name its socket with --control"
    )
