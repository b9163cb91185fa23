"""kubeconfig files: several merged into one, one context chosen, and what it says of a cluster.

As kubectl does it (client-go `tools/clientcmd/loader.go`): files are merged in order, the first
to name an entry or a current context wins, relative paths belong to the file that states them,
and files that do not exist are skipped. Reading is bounded: no tag makes an object, and
neither size nor aliases cost more than the text that spells them.

Nothing here connects, runs a plugin or reads a token file: that belongs to `credentials`.
"""

import base64
import binascii
import os
import re
import string
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from kproxy import errors
from kproxy.model import addresses
from kproxy.sources.access import small_files
from kproxy.sources.documents import reading

PIPE_SECONDS = 5.0
"""How long a kubeconfig that is a pipe is waited for, as in `--kubeconfig <(decrypt config)`."""

_EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
"""Versions of the protocol of exec plugins, as in client-go since 1.24."""

DEFAULT_PATH = Path(".kube") / "config"
"""The default kubeconfig, relative to the home directory."""

Pem: TypeAlias = bytes | Path | None
"""A certificate or a key: its bytes, or the file that has them."""

_Mapping: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ExecPlugin:
    """`users[].user.exec`: a program that prints credentials (KEP-541)."""

    command: str
    api_version: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    install_hint: str = ""
    cluster_info: str = ""
    """JSON about the cluster for a plugin that asks for it (provideClusterInfo); else ""."""


@dataclass(frozen=True, slots=True)
class User:
    """How to authenticate: by at most one of a token, `basic` and `exec_plugin`.

    `token` is used where `token_file` cannot be read. `impersonation` are the headers that ask
    the server to act as another user.
    """

    token: str = field(default="", repr=False)
    token_file: Path | None = None
    basic: tuple[str, str] | None = field(default=None, repr=False)
    exec_plugin: ExecPlugin | None = None
    certificate: Pem = field(default=None, repr=False)
    key: Pem = field(default=None, repr=False)
    impersonation: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """The files and the context that a ClusterAccess was read from, to read it again."""

    files: tuple[Path, ...]
    context: str


@dataclass(frozen=True, slots=True)
class ClusterAccess:
    """Where an API server is and how to reach it. PEM is bytes when given in the file itself.

    `context` is what users call it; `proxy_url` is the kubeconfig's, "" if it has none.
    """

    server: str
    context: str
    user: User = User()
    authority: Pem = None
    verifies: bool = True
    tls_server_name: str = ""
    proxy_url: str = ""
    origin: Origin | None = field(default=None, compare=False)

    @property
    def address(self) -> addresses.SocketAddress | None:
        """Where the server listens; None if the kubeconfig names it by a host name."""
        url = urllib.parse.urlsplit(self.server)
        found = addresses.parse(url.hostname or "")
        if found is None:
            return None
        return addresses.SocketAddress(
            found.text, url.port or (80 if url.scheme == "http" else 443)
        )

    def __str__(self) -> str:
        scheme, _, rest = self.server.partition("://")
        # What is before an @ may be a password.
        return f"{scheme}://{rest.rpartition('@')[2]} ({self.context})"


def paths(given: str | None, environment: Mapping[str, str]) -> tuple[Path, ...]:
    """The files to read: `given`, else KUBECONFIG's, else the default in the home directory."""
    listed = given or environment.get("KUBECONFIG", "")
    named = tuple(small_files.expanded(part) for part in listed.split(os.pathsep) if part)
    if named:
        return named
    home = environment.get("HOME")
    return (Path(home) / DEFAULT_PATH,) if home else ()


def read(files: Sequence[Path], context: str | None) -> ClusterAccess:
    """The cluster and user of `context`, or of the current context. Raises ConfigError.

    At least one of the files must exist.
    """
    merged = _Merged()
    for path in files:
        if not small_files.is_missing(path):
            merged.add(path, _document(path))
    if not merged.sources:
        listed = ", ".join(map(str, files))
        raise errors.ConfigError(
            f"no kubeconfig at {listed}: name an existing file by --kubeconfig or KUBECONFIG, "
            "or files of Services by --manifests"
        )
    chosen = context or merged.current
    if not chosen:
        raise errors.ConfigError(
            f"kubeconfig {merged.paths} has no current-context; choose one by --context"
            f"{merged.known('contexts')}"
        )
    where, entry, _ = merged.entry("contexts", "context", chosen)
    cluster_name = _text(entry, "cluster", where)
    if not cluster_name:
        raise errors.ConfigError(f"{where} names no cluster; add one")
    cluster = _Section(*merged.entry("clusters", "cluster", cluster_name))
    user_name = _text(entry, "user", where)
    user = _Section(*merged.entry("users", "user", user_name)) if user_name else None
    authority = cluster.pem("certificate-authority")
    verifies = cluster.values.get("insecure-skip-tls-verify") is not True
    if authority is not None and not verifies:
        raise errors.ConfigError(
            f"{cluster.where}: certificate-authority and insecure-skip-tls-verify exclude each "
            "other; remove insecure-skip-tls-verify"
        )
    server = _server(cluster, is_tls=authority is not None or not verifies)
    found = User()
    if user is not None:
        # As client-go has it, no secret travels in the clear: without TLS nothing authenticates.
        is_secure = server.startswith("https://")
        found = _user(user, cluster) if is_secure else User(impersonation=_impersonation(user))
    return ClusterAccess(
        server=server,
        context=chosen,
        user=found,
        authority=authority,
        verifies=verifies,
        tls_server_name=cluster.text("tls-server-name").removesuffix("."),
        proxy_url=_proxy_url(cluster),
        origin=Origin(tuple(files), chosen),
    )


def _server(cluster: "_Section", *, is_tls: bool) -> str:
    """The server's URL, completed as client-go does (`rest/url_utils.go`, DefaultServerURL)."""
    given = cluster.text("server")
    url = split_url(given)
    if url is not None and not (url.scheme and url.netloc):
        url = split_url(f"{'https' if is_tls else 'http'}://{given}")
        if url is not None and url.path not in ("", "/"):
            url = None
    if url is None or url.scheme not in ("http", "https") or not url.hostname:
        raise errors.ConfigError(
            f"{cluster.where}: server is {given or 'absent'!r} "
            "but must be an http(s) URL, or a host and port"
        )
    return url.geturl().rstrip("/")


def split_url(text: str) -> urllib.parse.SplitResult | None:
    """The parts of a URL; None if brackets do not match, or its port cannot be one."""
    try:
        url = urllib.parse.urlsplit(text)
        _ = url.port
    except ValueError:
        return None
    return url


def _proxy_url(cluster: "_Section") -> str:
    """The proxy that a cluster is behind, "" for none."""
    given = cluster.text("proxy-url")
    if given and not given.lower().startswith(("http://", "https://", "socks5://")):
        raise errors.ConfigError(
            f"{cluster.where}: proxy-url is {given!r} "
            "but must begin with http://, https:// or socks5://"
        )
    return given


class _Merged:
    """Entries of several files by section and name, the first of each, with their file."""

    def __init__(self) -> None:
        self.sources: list[Path] = []
        self.current = ""
        self._entries: dict[str, dict[str, tuple[Path, _Mapping]]] = {
            section: {} for section in ("clusters", "contexts", "users")
        }

    @property
    def paths(self) -> str:
        return ", ".join(map(str, self.sources))

    def add(self, path: Path, document: _Mapping) -> None:
        for key, wanted in (("kind", "Config"), ("apiVersion", "v1")):
            said = document.get(key) or wanted
            if said != wanted:
                raise errors.ConfigError(
                    f"{path} is no kubeconfig: its {key} is {said}, not {wanted}"
                )
        self.sources.append(path)
        self.current = self.current or _text(document, "current-context", f"kubeconfig {path}")
        for section, entries in self._entries.items():
            for name, entry in _named(document.get(section), f"kubeconfig {path}: {section}"):
                entries.setdefault(name, (path, entry))

    def entry(self, section: str, key: str, name: str) -> tuple[str, _Mapping, Path]:
        """Where the entry stands, in words; what it holds; and the directory of its file."""
        found = self._entries[section].get(name)
        if found is None:
            raise errors.ConfigError(
                f"kubeconfig {self.paths} has no {key} {name!r}{self.known(section)}"
            )
        path, entry = found
        where = f"kubeconfig {path}, {key} {name!r}"
        held = entry.get(key) or {}
        if not isinstance(held, dict):
            raise errors.ConfigError(f"{where} must be a mapping")
        return where, held, path.absolute().parent

    def known(self, section: str) -> str:
        known = ", ".join(sorted(self._entries[section])[:10])
        return f"; it has {known}" if known else f"; it has no {section}"


def _named(listed: object, where: str) -> Iterator[tuple[str, _Mapping]]:
    """The entries of a section by name; an entry without a name is called "", as in client-go."""
    if not isinstance(listed, list | None):
        raise errors.ConfigError(f"{where} must be a list")
    names = set()
    for each in listed or []:
        entry = {} if each is None else each
        name = (entry.get("name") or "") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise errors.ConfigError(f"{where}: every entry must be a mapping with a name")
        if name in names:
            raise errors.ConfigError(f"{where} has two entries named {name!r}; remove one of them")
        names.add(name)
        yield name, entry


@dataclass(frozen=True, slots=True)
class _Section:
    """One entry's values, with what error messages and relative paths need."""

    where: str
    values: _Mapping
    directory: Path

    def text(self, key: str) -> str:
        return _text(self.values, key, self.where)

    def path(self, key: str) -> Path | None:
        text = self.text(key)
        return self.directory / small_files.expanded(text) if text else None

    def pem(self, key: str) -> Pem:
        """`<key>-data` decoded, else the file `<key>`, which must be readable."""
        data = self.text(f"{key}-data")
        if data and self.text(key):
            raise errors.ConfigError(
                f"{self.where}: {key} and {key}-data exclude each other; remove one of them"
            )
        if data:
            try:
                return base64.b64decode(re.sub(r"[\r\n]", "", data), validate=True)
            except (binascii.Error, ValueError):
                raise errors.ConfigError(f"{self.where}: {key}-data is not base64") from None
        path = self.path(key)
        if path is not None:
            small_files.read(path, f"{self.where}: {key}")
        return path


def _document(path: Path) -> _Mapping:
    """The first document of a file. As by kubectl, the rest is not read, even if it is empty."""
    data = small_files.read(path, "kubeconfig", patience=PIPE_SECONDS)
    try:
        first = next(iter(reading.read_yaml(data)), None)
    except reading.MalformedError as error:
        raise errors.ConfigError(f"kubeconfig {path}: {error}") from None
    if first is None or first.number > 1:
        return {}
    if first.flaw:
        raise errors.ConfigError(f"kubeconfig {path}: {first.flaw}")
    if not isinstance(first.value, dict):
        raise errors.ConfigError(f"kubeconfig {path} must be one mapping")
    return first.value


def _text(values: _Mapping, key: str, where: str) -> str:
    value = values.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise errors.ConfigError(f"{where}: {key} must be a string; put it in quotes")
    if "\0" in value:
        raise errors.ConfigError(f"{where}: {key} must not contain NUL characters")
    return value


def _user(user: _Section, cluster: _Section) -> User:
    """The user of the context, with the checks of client-go (`tools/clientcmd/validation.go`)."""
    if user.values.get("auth-provider") is not None:
        raise errors.ConfigError(
            f"{user.where}: auth-provider is not supported; use its exec plugin instead "
            "(for example kubelogin or gke-gcloud-auth-plugin)"
        )
    certificate = user.pem("client-certificate")
    # client-go does not look at a key without a certificate.
    key = user.pem("client-key") if certificate is not None else None
    if certificate is not None and key is None:
        raise errors.ConfigError(
            f"{user.where}: client-certificate and client-key must be given together"
        )
    token, token_file = user.text("token"), user.path("tokenFile")
    basic = (user.text("username"), user.text("password"))
    has_token, has_basic = bool(token or token_file), bool(basic[0])
    if has_token and has_basic:
        raise errors.ConfigError(
            f"{user.where}: a token and a username exclude each other; remove one of them"
        )
    # As for kubectl, whatever else authenticates comes before a plugin.
    has_other = has_token or has_basic or certificate is not None
    has_plugin = not has_other and user.values.get("exec") is not None
    return User(
        token=token,
        token_file=token_file,
        basic=basic if has_basic else None,
        exec_plugin=_exec(user, cluster) if has_plugin else None,
        certificate=certificate,
        key=key,
        impersonation=_impersonation(user),
    )


def _impersonation(user: _Section) -> tuple[tuple[str, str], ...]:
    """The headers of `as`, `as-uid`, `as-groups` and `as-user-extra`.

    After client-go's `transport/round_trippers.go`, NewImpersonatingRoundTripper.
    """
    name, uid = user.text("as"), user.text("as-uid")
    extra = user.values.get("as-user-extra") or {}
    try:
        groups = _texts(user.values.get("as-groups"))
        extra = {key: _texts(each) for key, each in extra.items()}
    except (TypeError, AttributeError):
        raise errors.ConfigError(
            f"{user.where}: as-groups must be a list of strings, "
            "and as-user-extra a mapping of such lists"
        ) from None
    if not name:
        if uid or groups or extra:
            raise errors.ConfigError(
                f"{user.where}: as-uid, as-groups and as-user-extra need as, the user to act as"
            )
        return ()
    return (
        ("Impersonate-User", name),
        *([("Impersonate-Uid", uid)] if uid else ()),
        *(("Impersonate-Group", group) for group in groups),
        *(
            (f"Impersonate-Extra-{_as_header(key)}", value)
            for key, values in extra.items()
            for value in values
        ),
    )


def _texts(value: object) -> tuple[str, ...]:
    """A list of strings, where null is empty. Raises TypeError for anything else."""
    texts = [] if value is None else value
    if not isinstance(texts, list) or not all(isinstance(each, str | None) for each in texts):
        raise TypeError
    return tuple(each or "" for each in texts)


_TOKEN_LETTERS = frozenset(b"!#$&'*+-.^_`|~" + string.ascii_letters.encode() + b"0123456789")
"""What a header's name may have (RFC 9110, 5.6.2), but for %, which escapes the others."""


def _as_header(key: str) -> str:
    return "".join(chr(b) if b in _TOKEN_LETTERS else f"%{b:02X}" for b in key.encode())


def _exec(user: _Section, cluster: _Section) -> ExecPlugin:
    values = user.values["exec"]
    if not isinstance(values, dict):
        raise errors.ConfigError(f"{user.where}: exec must be a mapping")
    section = _Section(f"{user.where}, exec", values, user.directory)
    command, version = section.text("command"), section.text("apiVersion")
    if not command or version not in _EXEC_VERSIONS:
        raise errors.ConfigError(
            f"{section.where}: command must be given, and apiVersion as one of "
            f"{', '.join(_EXEC_VERSIONS)}"
        )
    mode = section.text("interactiveMode")
    if mode not in ("", "IfAvailable", "Never"):
        why = ", but a proxy has no terminal to ask at" if mode == "Always" else ""
        raise errors.ConfigError(
            f"{section.where}: interactiveMode is {mode}{why}; set it to IfAvailable or Never"
        )
    try:
        args = _texts(values.get("args"))
        pairs = [_texts([each["name"], each.get("value")]) for each in values.get("env") or []]
    except (TypeError, KeyError, AttributeError):
        raise errors.ConfigError(
            f"{section.where}: args must be strings, and env a list of name and value strings"
        ) from None
    if not all(name for name, _ in pairs):
        raise errors.ConfigError(f"{section.where}: env has an entry without a name; give it one")
    if "\0" in "".join((*args, *(text for pair in pairs for text in pair))):
        raise errors.ConfigError(f"{section.where}: args and env must not contain NUL characters")
    # As in Go, a name ends at its first "=", and what follows belongs to the value.
    env = [f"{name}={value}".partition("=") for name, value in pairs]
    if os.sep in command:
        command = str(section.directory / command)
    return ExecPlugin(
        command=command,
        api_version=version,
        args=args,
        env=tuple((name, value) for name, _, value in env),
        install_hint=section.text("installHint"),
        cluster_info=_cluster_info(cluster) if values.get("provideClusterInfo") is True else "",
    )


def _cluster_info(cluster: _Section) -> str:
    """`spec.cluster` of an ExecCredential (client-go `tools/clientcmd/api/helpers.go`)."""
    authority = cluster.pem("certificate-authority")
    if isinstance(authority, Path):
        authority = small_files.read(authority, f"{cluster.where}: certificate-authority")
    info = {
        "server": cluster.text("server"),
        "tls-server-name": cluster.text("tls-server-name"),
        "insecure-skip-tls-verify": cluster.values.get("insecure-skip-tls-verify") is True,
        "certificate-authority-data": (base64.b64encode(authority).decode() if authority else ""),
        "proxy-url": cluster.text("proxy-url"),
        "config": _extension(cluster.values.get("extensions")),
    }
    return msgspec.json.encode({key: value for key, value in info.items() if value}).decode()


def _extension(extensions: object) -> object:
    """What a cluster's entry holds for exec plugins."""
    for each in extensions if isinstance(extensions, list) else []:
        if isinstance(each, dict) and each.get("name") == "client.authentication.k8s.io/exec":
            return each.get("extension")
    return None
