"""Credentials that outlive their tokens: files that are rotated, plugins that are re-run.

A failure to get credentials is a failure: no request is ever sent anonymously instead
(docs/faults.md K20). No message and no log has a token in it.
"""

import asyncio
import base64
import contextlib
import datetime as dt
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
import structlog

from kproxy import errors
from kproxy.sources.access import kubeconfig, small_files
from kproxy.sources.documents import reading

_log = structlog.get_logger(__name__)

FILE_SECONDS = 60.0
"""Seconds after which token and certificate files are read again; they are replaced long before
they expire."""

PLUGIN_SECONDS = 60.0
"""A plugin that has not answered by then is killed."""

EXPIRY_MARGIN_SECONDS = 30.0
"""A plugin is run again this long before its credentials expire."""

MAX_PLUGIN_BYTES = 1024 * 1024
"""Most bytes of a plugin's output. A token has some kilobytes."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What a request is authenticated with. A certificate comes with its key, both PEM."""

    authorization: str = field(default="", repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)


class CredentialsError(Exception):
    """There are no credentials at the moment. The message says why, and contains no secret."""


class Credentials(Protocol):
    """Where credentials come from."""

    async def get(self) -> Credential:
        """The credential to use for the next request. Raises CredentialsError."""
        ...

    def discard(self, rejected: Credential) -> None:
        """The server refused `rejected`, or it is unusable: read or run the origin again before
        the next `get`."""
        ...


def for_user(
    user: kubeconfig.User, monotonic: Callable[[], float], wall: Callable[[], float]
) -> Credentials:
    """The credentials of a kubeconfig's user. `wall` is Unix time, in which plugins give expiry."""
    if user.exec_plugin is not None:
        return _FromPlugin(user.exec_plugin, wall)
    return _FromKubeconfig(user, monotonic)


def client_certificate(user: kubeconfig.User) -> tuple[bytes | None, bytes | None]:
    """The certificate and key of `user`, read if they are files. Raises ConfigError."""
    return _pem(user.certificate, "client certificate"), _pem(user.key, "client key")


def _pem(given: kubeconfig.Pem, what: str) -> bytes | None:
    return small_files.read(given, what) if isinstance(given, Path) else given


class _FromKubeconfig:
    """The kubeconfig's token, password or certificate, or the content of the file that it names.

    If a file cannot be read at the periodic look, credentials stay in use unless a server refused
    them.
    """

    def __init__(self, user: kubeconfig.User, clock: Callable[[], float]) -> None:
        self._user = user
        self._clock = clock
        self._held: Credential | None = None
        self._read_at = 0.0

    async def get(self) -> Credential:
        now = self._clock()
        if self._held is None or now - self._read_at >= FILE_SECONDS:
            try:
                certificate, key = client_certificate(self._user)
                self._held = Credential(_authorization(self._user), certificate, key)
            except errors.ConfigError as error:
                if self._held is None:
                    raise CredentialsError(f"no credentials: {error}") from None
                _log.warning(f"the previous credentials stay in use: {error}")
            self._read_at = now
        return self._held

    def discard(self, rejected: Credential) -> None:
        if rejected == self._held:
            self._held = None


def _authorization(user: kubeconfig.User) -> str:
    """The Authorization header, "" for none. Raises ConfigError."""
    if user.basic is not None:
        pair = ":".join(user.basic).encode()
        return f"Basic {base64.b64encode(pair).decode()}"
    token = user.token
    if user.token_file is not None:
        try:
            token = _token(user.token_file)
        except errors.ConfigError:
            if not token:
                raise
    return _bearer(token)


def _bearer(token: str | None) -> str:
    """The header for a token. Blanks at its end are cut off, as Go and servers do."""
    return f"Bearer {token}".rstrip(" \t") if token else ""


def _token(path: Path) -> str:
    """The token in a file. Raises ConfigError."""
    try:
        token = small_files.read(path, "token file").decode().strip()
    except UnicodeDecodeError:
        raise errors.ConfigError(f"token file: {path} is not text") from None
    if not token:
        raise errors.ConfigError(f"token file: {path} is empty")
    return token


class _ExecStatus(msgspec.Struct, frozen=True, rename="camel"):
    token: str | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = None
    expiration_timestamp: Annotated[dt.datetime, msgspec.Meta(tz=True)] | None = None


class _ExecCredential(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    status: _ExecStatus
    kind: str = "ExecCredential"


class _FromPlugin:
    """client-go's exec plugin protocol (`plugin/pkg/client/auth/exec/exec.go`, KEP-541).

    What a plugin gave is good until it expires or is refused; without an expiry, until refused.
    """

    def __init__(self, plugin: kubeconfig.ExecPlugin, wall: Callable[[], float]) -> None:
        self._plugin = plugin
        self._wall = wall
        self._held: Credential | None = None
        self._expires_at: float | None = None
        self._lock = asyncio.Lock()

    async def get(self) -> Credential:
        async with self._lock:
            if self._held is None or self._is_expired():
                status = _exec_status(self._plugin, await _output(self._plugin))
                self._held = _credential(self._plugin, status)
                expiry = status.expiration_timestamp
                self._expires_at = expiry.timestamp() if expiry else None
            return self._held

    def discard(self, rejected: Credential) -> None:
        if rejected == self._held:
            self._held = None

    def _is_expired(self) -> bool:
        margin = EXPIRY_MARGIN_SECONDS
        return self._expires_at is not None and self._wall() >= self._expires_at - margin


def _exec_credential(output: bytes) -> _ExecCredential:
    """An ExecCredential from JSON or YAML, as kubectl reads it. Raises `msgspec.DecodeError`."""
    if output.lstrip().startswith(b"{"):
        return msgspec.json.decode(output, type=_ExecCredential)
    try:
        first = next(iter(reading.read_yaml(output)), None)
    except reading.MalformedError:
        first = None
    # The text of a flaw may contain a value, which may be a secret.
    if first is None or first.flaw:
        raise msgspec.DecodeError("neither JSON nor YAML")
    return msgspec.convert(first.value, _ExecCredential)


def _exec_status(plugin: kubeconfig.ExecPlugin, output: bytes) -> _ExecStatus:
    try:
        answer = _exec_credential(output)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # msgspec names the place and the type of what is wrong, never its value.
        raise CredentialsError(f"{_name(plugin)} printed no ExecCredential: {error}") from None
    if answer.kind != "ExecCredential" or answer.api_version != plugin.api_version:
        raise CredentialsError(
            f"{_name(plugin)} printed {answer.api_version} {answer.kind}, not the "
            f"{plugin.api_version} ExecCredential it was asked for"
        )
    return answer.status


def _credential(plugin: kubeconfig.ExecPlugin, status: _ExecStatus) -> Credential:
    certificate, key = status.client_certificate_data, status.client_key_data
    if bool(certificate) != bool(key):
        raise CredentialsError(f"{_name(plugin)} gave a client certificate without its key")
    if not status.token and not certificate:
        raise CredentialsError(f"{_name(plugin)} gave neither a token nor a client certificate")
    authorization = _bearer(status.token)
    if certificate and key:
        return Credential(authorization, certificate.encode(), key.encode())
    return Credential(authorization)


async def _output(plugin: kubeconfig.ExecPlugin) -> bytes:
    """Run the plugin; returns what it prints. Raises CredentialsError. The plugin does not outlive
    the call."""
    try:
        process = await asyncio.create_subprocess_exec(
            plugin.command,
            *plugin.args,
            env=_environment(plugin),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        hint = f"; {plugin.install_hint.strip()}" if plugin.install_hint else ""
        reason = errors.reason(error)
        raise CredentialsError(f"cannot run {_name(plugin)}: {reason}{hint}") from None
    try:
        async with asyncio.timeout(PLUGIN_SECONDS):
            output, complaint = await asyncio.gather(
                _bounded(process.stdout), _bounded(process.stderr)
            )
            code = await process.wait()
    except TimeoutError:
        raise CredentialsError(
            f"{_name(plugin)} gave no answer within {PLUGIN_SECONDS:g} s"
        ) from None
    finally:
        # Its children too: a plugin is often a script, whose children would hold the pipes open.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if code != 0:
        lines = complaint.decode(errors="replace").strip().splitlines()
        said = f": {lines[-1][:200]}" if lines else ""
        raise CredentialsError(f"{_name(plugin)} failed with exit code {code}{said}")
    return output


async def _bounded(stream: asyncio.StreamReader | None) -> bytes:
    """Read a stream to its end; returns its first MAX_PLUGIN_BYTES."""
    kept = bytearray()
    while stream is not None and (chunk := await stream.read(65536)):
        kept += chunk[: MAX_PLUGIN_BYTES - len(kept)]
    return bytes(kept)


def _environment(plugin: kubeconfig.ExecPlugin) -> dict[str, str]:
    spec: dict[str, object] = {"interactive": False}
    if plugin.cluster_info:
        spec["cluster"] = msgspec.Raw(plugin.cluster_info.encode())
    info = {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}
    asked = {"KUBERNETES_EXEC_INFO": msgspec.json.encode(info).decode()}
    return {**os.environ, **dict(plugin.env), **asked}


def _name(plugin: kubeconfig.ExecPlugin) -> str:
    return f"credential plugin {plugin.command}"
