"""What kubectl accepts is accepted, with the same meaning: both are asked, side by side.

Each case is a kubeconfig and an environment. Both clients then ask the same API server, which
tells which way the request came (directly, by an HTTP proxy, by SOCKS), and as whom. Where the
two may differ, the case says why.
"""

import json
import shutil
import subprocess
import sys
from typing import Any, NamedTuple

import pytest

from tests.relay import netns

KUBECTL = shutil.which("kubectl")
GROUP = "client.authentication.k8s.io"
V1 = f"{GROUP}/v1"


class Case(NamedTuple):
    """One row of the table."""

    id: str
    files: dict[str, str]
    environment: dict[str, str]
    args: list[str]
    differs: str = ""
    """Why kproxy refuses what kubectl accepts, or accepts what kubectl refuses; "" if neither."""


def case(
    name: str,
    *,
    cluster: dict[str, Any] | None = None,
    user: dict[str, Any] | None = None,
    env: dict[str, str] | None = None,
    args: tuple[str, ...] = (),
    differs: str = "",
    text: str | None = None,
    files: dict[str, str] | None = None,
) -> Case:
    """A kubeconfig of one context, or `text`; other files lie beside it."""
    server = {"server": f"https://{HOST}:6443", "certificate-authority": "@CA@"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": server if cluster is None else cluster}],
        "users": [{"name": "u", "user": {"token": "T"} if user is None else user}],
    }
    content = json.dumps(config) if text is None else text
    return Case(name, {"config": content, **(files or {})}, env or {}, list(args), differs)


HOST = "api.corp.test"
HTTP = {"server": f"http://{HOST}:8001"}
SKIPS = {"server": f"https://{HOST}:6443", "insecure-skip-tls-verify": True}
PROXIED = {"HTTPS_PROXY": "http://@PROXY@", "HTTP_PROXY": "http://@PROXY@"}


def no_proxy(value: str, host: str = HOST) -> Case:
    cluster = {"server": f"https://{host}:6443", "insecure-skip-tls-verify": True}
    return case(f"NO_PROXY={value} {host}", cluster=cluster, env={**PROXIED, "NO_PROXY": value})


def authority(name: str, text: str) -> Case:
    cluster = {"server": f"https://{HOST}:6443", "certificate-authority": "ca"}
    return case(f"authority: {name}", cluster=cluster, files={"ca": text})


BAD_CERTIFICATE = "-----BEGIN CERTIFICATE-----\nZm9v\n-----END CERTIFICATE-----\n"


def plugin(
    script: str, name: str, *, exec_fields: dict[str, Any] | None = None, differs: str = ""
) -> Case:
    fields = {
        "apiVersion": V1,
        "command": "./plugin",
        "interactiveMode": "Never",
        **(exec_fields or {}),
    }
    return case(
        f"exec: {name}",
        user={"exec": fields},
        files={"plugin": f"#!/bin/sh\n{script}\n"},
        differs=differs,
    )


def prints(status: dict[str, Any], version: str = V1) -> str:
    answer = {"apiVersion": version, "kind": "ExecCredential", "status": status}
    return f"cat <<'END'\n{json.dumps(answer)}\nEND"


YAML_CONFIG = """
apiVersion: v1
kind: Config
preferences: {colors: true}
current-context: "c"
contexts:
- {name: c, context: {cluster: c, user: u, namespace: web}}
clusters:
- name: c
  cluster: {server: "https://api.corp.test:6443", certificate-authority-data: @CA_DATA@, extensions: null}
users:
- name: u
  user:
    token: T
"""  # noqa: E501

CASES = [
    case("token"),
    case("token in a file", user={"tokenFile": "@DIR@/t"}, files={"t": "FROM-FILE\n"}),
    case("token file, relative", user={"tokenFile": "t"}, files={"t": "FROM-FILE"}),
    case("token and token file", user={"token": "T", "tokenFile": "t"}, files={"t": "FILE"}),
    case("token and a missing token file", user={"token": "T", "tokenFile": "nowhere"}),
    case("missing token file", user={"tokenFile": "nowhere"}),
    case("basic", user={"username": "u", "password": "p"}),
    case("basic without a password", user={"username": "u"}),
    case("token and basic", user={"token": "T", "username": "u", "password": "p"}),
    case(
        "token file and basic",
        user={"tokenFile": "t", "username": "u", "password": "p"},
        files={"t": "FROM-FILE"},
    ),
    case("password without a name", user={"password": "p"}),
    case("token and a space", user={"token": "T "}),
    case("token and a line feed", user={"token": "T\n"}),
    case("token that is no ASCII", user={"token": "Tü"}),
    case("empty token file", user={"tokenFile": "t"}, files={"t": " \n"}),
    case("auth-provider: null", user={"token": "T", "auth-provider": None}),
    case("no user at all", user={}),
    case("as", user={"token": "T", "as": "jane"}),
    case("as, groups", user={"token": "T", "as": "jane", "as-groups": ["dev", "ops"]}),
    case("as, uid", user={"token": "T", "as": "jane", "as-uid": "42"}),
    case(
        "as, extra",
        user={"token": "T", "as": "jane", "as-user-extra": {"example.com/Zone": ["a", "b"]}},
    ),
    case(
        "as, extra with letters that are no token",
        user={"token": "T", "as": "jane", "as-user-extra": {"a b%/ü": ["1"]}},
    ),
    case("as, nulls", user={"token": "T", "as": "j", "as-groups": None, "as-user-extra": None}),
    case(
        "as, nulls in lists",
        user={"token": "T", "as": "j", "as-groups": ["a", None], "as-user-extra": {"a": None}},
    ),
    case("as, a number", user={"token": "T", "as": "j", "as-groups": [5]}),
    case("as, http", cluster=HTTP, user={"token": "T", "as": "jane"}),
    case("groups without as", user={"token": "T", "as-groups": ["dev"]}),
    case("as a service account", user={"token": "T", "as": "system:serviceaccount:a:b"}),
    case("certificate files", user={"client-certificate": "@CRT@", "client-key": "@KEY@"}),
    case(
        "certificate data",
        user={"client-certificate-data": "@CRT_DATA@", "client-key-data": "@KEY_DATA@"},
    ),
    case(
        "certificate file, key data",
        user={"client-certificate": "@CRT@", "client-key-data": "@KEY_DATA@"},
    ),
    case(
        "certificate and key in one file",
        user={"client-certificate": "both", "client-key": "both"},
        files={"both": "@CRT_PEM@@KEY_PEM@"},
    ),
    case(
        "key and certificate in one file",
        user={"client-certificate": "both", "client-key": "both"},
        files={"both": "@KEY_PEM@@CRT_PEM@"},
    ),
    case(
        "encrypted key",
        user={"client-certificate": "@CRT@", "client-key": "key"},
        files={"key": "@ENCRYPTED_PEM@"},
    ),
    case("certificate without its key", user={"client-certificate": "@CRT@"}),
    case("key without its certificate", user={"client-key": "@KEY@", "token": "T"}),
    case(
        "certificate and exec",
        user={
            "client-certificate": "@CRT@",
            "client-key": "@KEY@",
            "exec": {"apiVersion": V1, "command": "./plugin", "interactiveMode": "Never"},
        },
        files={"plugin": "#!/bin/sh\n" + prints({"token": "P"}) + "\n"},
    ),
    case(
        "certificate and token",
        user={"client-certificate": "@CRT@", "client-key": "@KEY@", "token": "T"},
    ),
    case("certificate that is none", user={"client-certificate-data": "Zm9v", "client-key": "x"}),
    case(
        "authority as data",
        cluster={"server": f"https://{HOST}:6443", "certificate-authority-data": "@CA_DATA@"},
    ),
    case(
        "authority as data and as a file",
        cluster={
            "server": f"https://{HOST}:6443",
            "certificate-authority": "@CA@",
            "certificate-authority-data": "@CA_DATA@",
        },
    ),
    authority("words around it", "# für\n\n@CA_PEM@\nthe end"),
    authority("a key before it", "@KEY_PEM@@CA_PEM@"),
    authority("another behind it", "@CA_PEM@@CRT_PEM@"),
    authority("another before it", "@CRT_PEM@@CA_PEM@"),
    authority("one that is none before it", BAD_CERTIFICATE + "@CA_PEM@"),
    authority("one that is none behind it", "@CA_PEM@" + BAD_CERTIFICATE),
    authority("a byte order mark", "\ufeff@CA_PEM@"),
    authority("only one that is none", BAD_CERTIFICATE),
    authority("only a key", "@KEY_PEM@"),
    authority("empty", ""),
    case("no authority", cluster={"server": f"https://{HOST}:6443"}),
    case("skips verification", cluster=SKIPS),
    case(
        "skips verification, with an authority", cluster={**SKIPS, "certificate-authority": "@CA@"}
    ),
    case("skips verification: null", cluster={**SKIPS, "insecure-skip-tls-verify": None}),
    case(
        "a name the certificate has not",
        cluster={"server": "https://api2.corp.test:6443", "certificate-authority": "@CA@"},
    ),
    case(
        "tls-server-name",
        cluster={
            "server": "https://api2.corp.test:6443",
            "certificate-authority": "@CA@",
            "tls-server-name": HOST,
        },
    ),
    case(
        "tls-server-name with a dot at its end",
        cluster={
            "server": "https://api2.corp.test:6443",
            "certificate-authority": "@CA@",
            "tls-server-name": f"{HOST}.",
        },
    ),
    case("http", cluster=HTTP),
    case("no scheme, http", cluster={"server": "127.0.0.1:8001"}),
    case("no scheme, a name", cluster={"server": f"{HOST}:8001"}),
    case(
        "no scheme, an authority",
        cluster={"server": f"{HOST}:6443", "certificate-authority": "@CA@"},
        differs="kubectl tries plain HTTP in vain; client-go's DefaultServerURL means https",
    ),
    case(
        "no scheme, skips",
        cluster={"server": f"{HOST}:6443", "insecure-skip-tls-verify": True},
        differs="kubectl tries plain HTTP in vain; client-go's DefaultServerURL means https",
    ),
    case("no scheme, a path", cluster={"server": f"{HOST}:8001/cluster"}),
    case("a path", cluster={"server": f"http://{HOST}:8001/cluster/a"}),
    case("a path and a slash", cluster={"server": f"http://{HOST}:8001/cluster/a/"}),
    case("no server", cluster={"server": ""}),
    case("ftp", cluster={"server": f"ftp://{HOST}:8001"}),
    case("a port that is none", cluster={"server": f"http://{HOST}:http"}),
    case("a port that is too large", cluster={"server": f"http://{HOST}:99999"}),
    case("a bracket", cluster={"server": "https://[::1"}),
    case("a user in the URL", cluster={**SKIPS, "server": f"https://a:b@{HOST}:6443"}),
    case("upper-case scheme", cluster={"server": f"HTTP://{HOST}:8001"}),
    case("proxy-url", cluster={**SKIPS, "proxy-url": "http://@PROXY@"}),
    case("proxy-url without a scheme", cluster={**SKIPS, "proxy-url": "@PROXY@"}),
    case("proxy-url, http server", cluster={**HTTP, "proxy-url": "http://@PROXY@"}),
    case(
        "proxy-url beats NO_PROXY",
        cluster={**SKIPS, "proxy-url": "http://@PROXY@"},
        env={"NO_PROXY": "*"},
    ),
    case("proxy-url: socks5", cluster={**SKIPS, "proxy-url": "socks5://@SOCKS@"}),
    case("proxy-url: socks5, http server", cluster={**HTTP, "proxy-url": "socks5://@SOCKS@"}),
    case("proxy-url: upper case", cluster={**SKIPS, "proxy-url": "HTTP://@PROXY@"}),
    case("proxy-url: SOCKS5", cluster={**SKIPS, "proxy-url": "SOCKS5://@SOCKS@"}),
    case("proxy-url: no host", cluster={**SKIPS, "proxy-url": "http://"}),
    case("proxy-url: ftp", cluster={**SKIPS, "proxy-url": "ftp://@PROXY@"}),
    case("HTTPS_PROXY", cluster=SKIPS, env={"HTTPS_PROXY": "http://@PROXY@"}),
    case("https_proxy", cluster=SKIPS, env={"https_proxy": "http://@PROXY@"}),
    case("HTTPS_PROXY without a scheme", cluster=SKIPS, env={"HTTPS_PROXY": "@PROXY@"}),
    case("HTTPS_PROXY: socks5", cluster=SKIPS, env={"HTTPS_PROXY": "socks5://@SOCKS@"}),
    case("HTTPS_PROXY: SOCKS5", cluster=SKIPS, env={"HTTPS_PROXY": "SOCKS5://@SOCKS@"}),
    case("HTTP_PROXY, https server", cluster=SKIPS, env={"HTTP_PROXY": "http://@PROXY@"}),
    case("HTTP_PROXY, http server", cluster=HTTP, env={"HTTP_PROXY": "http://@PROXY@"}),
    case("ALL_PROXY", cluster=SKIPS, env={"ALL_PROXY": "http://@PROXY@"}),
    case(
        "both cases of HTTPS_PROXY",
        cluster=SKIPS,
        env={"HTTPS_PROXY": "http://@PROXY@", "https_proxy": "http://127.0.0.1:9"},
    ),
    case("this machine", cluster={"server": "http://127.0.0.1:8001"}, env=PROXIED),
    case("localhost", cluster={"server": "http://localhost:8001"}, env=PROXIED),
    *(
        no_proxy(value)
        for value in (
            "",
            "*",
            ".corp.test",
            "corp.test",
            "*.corp.test",
            "*.test",
            "*corp.test",
            "api.corp.test",
            "API.Corp.Test",
            "api.corp.test:6443",
            "api.corp.test:443",
            ".corp.test:6443",
            "*.corp.test:6443",
            "other, api.corp.test",
            "other api.corp.test",
            "orp.test",
            "10.0.0.0/8",
            ":6443",
            ",,",
        )
    ),
    *(
        no_proxy(value, "10.9.8.7")
        for value in (
            "10.9.8.7",
            "10.9.8.7:6443",
            "10.9.8.7:443",
            "10.0.0.0/8",
            "10.9.8.7/32",
            "10.9.8.0/33",
            "10.9.8.",
            "*.8.7",
            "::ffff:10.9.8.7",
            "::ffff:10.0.0.0/104",
            "10.0.0.0/255.0.0.0",
            "[10.9.8.7]",
        )
    ),
    plugin(prints({"token": "P"}), "token"),
    plugin(
        prints({"token": "P"}, "client.authentication.k8s.io/v1beta1"),
        "v1beta1",
        exec_fields={"apiVersion": "client.authentication.k8s.io/v1beta1"},
    ),
    plugin(prints({"token": "P", "expirationTimestamp": "2001-01-01T00:00:00Z"}), "expired"),
    plugin(
        prints({"clientCertificateData": "x", "clientKeyData": "y"}), "certificate that is none"
    ),
    plugin(prints({}), "nothing"),
    plugin(prints({"token": None, "clientKeyData": None}), "nulls"),
    plugin(prints({"token": "P", "expirationTimestamp": "2099-01-01T00:00:00"}), "no time zone"),
    plugin(f"printf 'kind: ExecCredential\\napiVersion: {V1}\\nstatus: {{token: P}}'", "YAML"),
    plugin(f"""echo '{{"apiVersion":"{V1}","status":{{"token":"P"}}}}'""", "no kind"),
    plugin(prints({"token": "P"}) + "\necho bye", "words behind it"),
    plugin(
        prints({"token": "P"}), "no values", exec_fields={"args": [None], "env": [{"name": "A"}]}
    ),
    plugin("exit 1", "fails"),
    plugin(prints({"token": "P"}, "client.authentication.k8s.io/v1beta1"), "another version"),
    plugin(
        'echo "{\\"apiVersion\\":\\"client.authentication.k8s.io/v1\\",'
        '\\"kind\\":\\"ExecCredential\\",\\"status\\":{\\"token\\":\\"$WORD-$1-$HOME_GIVEN\\"}}"',
        "arguments and environment",
        exec_fields={"args": ["one"], "env": [{"name": "WORD", "value": "two"}]},
    ),
    plugin(prints({"token": "P"}), "null lists", exec_fields={"args": None, "env": None}),
    plugin(
        prints({"token": "P"}),
        "no interactiveMode",
        exec_fields={"interactiveMode": None},
        differs="kubectl requires it in v1; nothing else could be meant here than Never",
    ),
    plugin(prints({"token": "P"}), "IfAvailable", exec_fields={"interactiveMode": "IfAvailable"}),
    plugin(prints({"token": "P"}), "Always", exec_fields={"interactiveMode": "Always"}),
    plugin(prints({"token": "P"}), "never", exec_fields={"interactiveMode": "never"}),
    *(
        plugin(prints({"token": "P"}, version), version, exec_fields={"apiVersion": version})
        for version in (f"{GROUP}/", f"{GROUP}/v1alpha1", f"{GROUP}/v2")
    ),
    plugin(
        prints({"token": "P"}).replace('"P"', '"$A"').replace("'END'", "END"),
        "a name with a = in the environment",
        exec_fields={"env": [{"name": "A=b", "value": "c"}]},
    ),
    plugin(prints({"token": "P"}), "a NUL in args", exec_fields={"args": ["a\0b"]}),
    plugin(prints({"token": "P"}), "no name in env", exec_fields={"env": [{"name": ""}]}),
    case(
        "exec and token",
        user={
            "token": "T",
            "exec": {"apiVersion": V1, "command": "./plugin", "interactiveMode": "Never"},
        },
        files={"plugin": "#!/bin/sh\n" + prints({"token": "P"}) + "\n"},
    ),
    case("YAML", text=YAML_CONFIG),
    case("YAML with tabs after", text=YAML_CONFIG.replace("token: T", "token: T\t# mine")),
    case("a byte order mark", text="\ufeff" + YAML_CONFIG),
    case("CRLF", text=YAML_CONFIG.replace("\n", "\r\n")),
    case("unknown fields", text=YAML_CONFIG + "surprise: {a: 1}\n"),
    case("a number for a token", text=YAML_CONFIG.replace("token: T", "token: 12345")),
    case(
        "a token that looks like a date", text=YAML_CONFIG.replace("token: T", "token: 2001-01-01")
    ),
    case("a token that looks like a time", text=YAML_CONFIG.replace("token: T", "token: 12:30:45")),
    case("a second document", text=YAML_CONFIG + "---\n{{{\n"),
    case("an empty document before it", text=f"---\n# c\n---\n{YAML_CONFIG}"),
    case("a null document before it", text=f"~\n---\n{YAML_CONFIG}"),
    case("another version", text=YAML_CONFIG.replace("apiVersion: v1", "apiVersion: v2")),
    case("two users of one name", text=YAML_CONFIG + "- {name: u, user: {token: OTHER}}\n"),
    case("an entry that is null", text=YAML_CONFIG + "- null\n"),
    case("an entry without a name", text=YAML_CONFIG + "- user: {token: X}\n"),
    case("a section that is a mapping", text=YAML_CONFIG.partition("users:")[0] + "users: {}\n"),
    case("duplicate keys", text=YAML_CONFIG + "current-context: nowhere\n"),
    case("no kind", text=YAML_CONFIG.replace("kind: Config\n", "")),
    case("another kind", text=YAML_CONFIG.replace("kind: Config", "kind: Pod")),
    case("no current-context", text=YAML_CONFIG.replace('current-context: "c"', "")),
    case(
        "--context",
        text=YAML_CONFIG.replace('current-context: "c"', ""),
        args=("--context", "c"),
    ),
    case("a context that is not there", args=("--context", "nowhere")),
    case("context without a user", text=YAML_CONFIG.replace(", user: u", "")),
    case(
        "user that is not there",
        text=YAML_CONFIG.replace("user: u,", "user: nobody,"),
        differs="kubectl goes on without a user, which a server refuses later and less clearly",
    ),
    case("cluster that is not there", text=YAML_CONFIG.replace("cluster: c,", "cluster: nil,")),
    case("empty lists", text="apiVersion: v1\nkind: Config\nclusters: []\n"),
    case("an empty file", text=""),
    case("KUBECONFIG", env={"KUBECONFIG": "@DIR@/config"}),
    case("KUBECONFIG of several", env={"KUBECONFIG": "@DIR@/nowhere:@DIR@/config"}),
    case("KUBECONFIG with empty parts", env={"KUBECONFIG": ":@DIR@/config::"}),
    case(
        "a context with spaces and @",
        text=YAML_CONFIG.replace("name: c,", 'name: "me@c d",').replace(
            'current-context: "c"', 'current-context: "me@c d"'
        ),
    ),
]


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Any]:
    """What became of every case."""
    assert KUBECTL is not None
    own = ["unshare", "--net", "--mount", "--propagation", "private"]
    done = subprocess.run(
        [*own, sys.executable, "-m", "tests.sources.access.kubectl_rig", KUBECTL],
        input=json.dumps([each._asdict() for each in CASES]),
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.extra
@pytest.mark.netns
@netns.needs_root
@pytest.mark.skipif(KUBECTL is None, reason="needs the package kubernetes-client")
@pytest.mark.parametrize("row", CASES, ids=[each.id for each in CASES])
def test_kproxy_does_as_kubectl_does(row: Case, verdicts: dict[str, Any]) -> None:
    ours, theirs = verdicts[row.id]["kproxy"], verdicts[row.id]["kubectl"]
    if row.differs:
        assert ours["reached"] != theirs["reached"], (ours, theirs)
        return
    assert _shown(ours) == _shown(theirs), (ours, theirs)


def _shown(verdict: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in verdict.items() if key != "said"}
