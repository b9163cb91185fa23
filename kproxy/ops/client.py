"""Asking a running proxy, over its control socket."""

import http.client
import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from kproxy import errors

_TIMEOUT = 30.0
_WARNING = re.compile(r'299 - "(?P<text>[^"]*)"')
"""As Kubernetes API servers write it (KEP-1693)."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP to a unix socket. Raises OSError as connect(2) does."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(str(self._path))


def fetch(
    control: Path,
    resource: str,
    *,
    namespace: str = "",
    name: str = "",
    on_warning: Callable[[str], object] = lambda _: None,
) -> list[dict[str, Any]]:
    """The views of `resource` (see `control`), of any namespace or Service where "" is given.

    `on_warning` gets what the proxy says of all of them, such as that they are out of date.
    Raises KproxyError when nobody answers, or no Service `name` is served.
    """
    connection = _UnixConnection(control)
    try:
        connection.request("GET", f"/v1/{resource}?{urlencode(_given(namespace, name))}")
        response = connection.getresponse()
        body = response.read()
        if warning := _WARNING.fullmatch(response.getheader("Warning", "")):
            on_warning(warning["text"])
        if response.status == http.client.OK:
            views: list[dict[str, Any]] = json.loads(body)
            return views
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _silence(control, error) from error
    finally:
        connection.close()
    if response.status == http.client.NOT_FOUND and name:
        where = f"in namespace {namespace}" if namespace else "in any namespace"
        raise errors.KproxyError(
            f"no Service {name} is served {where}: see what is with kproxy get services -A"
        )
    raise errors.KproxyError(
        f"the proxy at {control} refused: {body.decode(errors='replace').strip()}; "
        "name another one's socket with --control"
    )


def _given(namespace: str, name: str) -> dict[str, str]:
    return {key: value for key, value in (("namespace", namespace), ("name", name)) if value}


def _silence(control: Path, error: Exception) -> errors.KproxyError:
    said = " ".join(str(error).split())
    reason = getattr(error, "strerror", None) or said or type(error).__name__
    return errors.KproxyError(
        f"no kproxy answers at {control} ({reason}): start one with kproxy run, "
        "or name its socket with --control"
    )
