"""kubeconfig files: merged, chosen from, and refused in one sentence.

Cases: S11 of docs/faults.md.
"""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from kproxy import errors
from kproxy.sources.access import kubeconfig, rest_config, small_files
from tests.sources.access import tls

PLUGIN = {"command": "x", "apiVersion": "client.authentication.k8s.io/v1"}


def config(name: str = "test", **sections: Any) -> dict[str, Any]:
    return {
        "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}.invalid:1"}}],
        "users": [{"name": name, "user": {}}],
        **sections,
    }


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def user(tmp_path: Path, **values: Any) -> kubeconfig.User:
    path = write(tmp_path / "config", config(users=[{"name": "test", "user": values}]))
    return kubeconfig.read([path], None).user


def test_several_files_are_merged_and_the_first_to_name_something_wins(tmp_path: Path) -> None:
    first = write(tmp_path / "a" / "config", {**config("one"), "current-context": "one"})
    clash = [{"name": "one", "cluster": {"server": "http://wrong.invalid"}}]
    more = {**config("two"), "clusters": [*config("two")["clusters"], *clash]}
    token = {"name": "two", "user": {"tokenFile": "token"}}
    second = write(tmp_path / "b" / "config", {**more, "users": [token]})
    missing = tmp_path / "missing"
    listed = f"{missing}:{first}:{second}"

    environment = {"KUBECONFIG": listed}
    access = rest_config.load(None, None, environment=environment)
    assert (access.server, access.context) == ("https://one.invalid:1", "one")
    other = rest_config.load(None, "two", environment=environment)
    assert other.server == "https://two.invalid:1"
    assert other.user.token_file == tmp_path / "b" / "token"
    assert rest_config.load(listed, None, environment={}).context == "one"


@pytest.mark.parametrize(
    ("server", "told"),
    [
        ("https://k8s.example:6443/path", "https://k8s.example:6443/path (test)"),
        ("https://admin:s3cret@k8s.example", "https://k8s.example (test)"),
        ("http://admin:s3/cr@t@k8s.example/path", "http://k8s.example/path (test)"),
    ],
)
def test_a_password_in_a_servers_url_is_not_shown(server: str, told: str) -> None:
    assert str(kubeconfig.ClusterAccess(server, "test")) == told


@pytest.mark.parametrize(
    ("content", "context", "sentence"),
    [
        ("[1, 2]", None, "must be one mapping"),
        ("a: [", None, "kubeconfig"),
        ("!!python/object/apply:os.system [id]", None, "is not allowed"),
        (config(), "nope", "has no context 'nope'; it has test"),
        ({**config(), "current-context": ""}, None, "has no current-context; choose one"),
        (config(clusters=[]), None, "has no cluster 'test'; it has no clusters"),
        (config(users=[]), None, "has no user 'test'"),
        (config(clusters={"a": 1}), None, "clusters must be a list"),
        (config(users=[1]), None, "must be a mapping with a name"),
        (config(clusters=[{"name": "test", "cluster": {"server": 5}}]), None, "a string"),
        (
            config(clusters=[{"name": "test", "cluster": {"server": "ftp://x"}}]),
            None,
            "http(s) URL",
        ),
        (config(clusters=[{"name": "test", "cluster": {"server": ""}}]), None, "'absent'"),
        ({**config(), "kind": "Pod"}, None, "its kind is Pod, not Config"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(
    tmp_path: Path, content: object, context: str | None, sentence: str
) -> None:
    path = write(tmp_path / "config", content)
    with pytest.raises(errors.ConfigError) as caught:
        rest_config.load(str(path), context)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_aliases_cannot_blow_up(tmp_path: Path) -> None:
    laughs = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    laughs += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    path = write(tmp_path / "config", "\n".join(laughs))
    with pytest.raises(errors.ConfigError, match="kubeconfig"):
        rest_config.load(str(path), None)


def test_a_file_of_any_size_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "config", "#" * (small_files.MAX_BYTES + 2))
    with pytest.raises(errors.ConfigError, match="larger than"):
        rest_config.load(str(path), None)


def test_no_kubeconfig_at_all_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match=r"no kubeconfig at .*missing"):
        rest_config.load(str(tmp_path / "missing"), None)


@pytest.mark.parametrize("key", ["server", "certificate-authority", "tls-server-name", "proxy-url"])
def test_a_nul_is_refused_before_a_library_meets_it(tmp_path: Path, key: str) -> None:
    cluster = {"server": "https://a.invalid", key: "a\0b"}
    path = write(tmp_path / "config", config(clusters=[{"name": "test", "cluster": cluster}]))
    with pytest.raises(errors.ConfigError, match=f"{key} must not contain NUL characters"):
        kubeconfig.read([path], None)


def test_an_unreadable_authority_is_found_at_once(tmp_path: Path) -> None:
    cluster = {"server": "https://a.invalid", "certificate-authority": "ca.crt"}
    path = write(tmp_path / "config", config(clusters=[{"name": "test", "cluster": cluster}]))
    with pytest.raises(errors.ConfigError, match=r"certificate-authority: cannot read .*ca\.crt"):
        rest_config.load(str(path), None)
    (tmp_path / "ca.crt").write_text("no certificate")
    with pytest.raises(errors.ConfigError, match="cannot be used"):
        rest_config.load(str(path), None)
    cluster = {"server": "https://a.invalid", "certificate-authority-data": "%%%"}
    write(path, config(clusters=[{"name": "test", "cluster": cluster}]))
    with pytest.raises(errors.ConfigError):
        rest_config.load(str(path), None)


def test_ways_to_authenticate(tmp_path: Path) -> None:
    assert user(tmp_path, token="secret").token == "secret"
    both = user(tmp_path, token="secret", tokenFile="t")
    assert (both.token, both.token_file) == ("secret", tmp_path / "t")
    assert user(tmp_path, username="u", password="p").basic == ("u", "p")
    data = base64.b64encode(b"pem").decode()
    with_certificate = user(tmp_path, **{"client-certificate-data": data, "client-key-data": data})
    assert (with_certificate.certificate, with_certificate.key) == (b"pem", b"pem")
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "./bin/get-token"}
    found = user(tmp_path, exec=plugin).exec_plugin
    assert found is not None
    assert found.command == str(tmp_path / "bin" / "get-token")
    assert "secret" not in repr(user(tmp_path, token="secret"))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"auth-provider": {"name": "gcp"}}, "use its exec plugin"),
        ({"client-certificate-data": "cGVt"}, "must be given together"),
        ({"exec": []}, "exec must be a mapping"),
        ({"exec": {"command": "x"}}, "apiVersion"),
        *(
            (
                {"exec": {"command": "x", "apiVersion": f"client.authentication.k8s.io/{version}"}},
                "apiVersion as one of client.authentication.k8s.io/v1, ",
            )
            for version in ("", "v1alpha1", "v2")
        ),
        ({"exec": {**PLUGIN, "interactiveMode": "never"}}, "interactiveMode is never; set it to"),
        ({"exec": {**PLUGIN, "command": "a\0b"}}, "must not contain NUL"),
        ({"exec": {**PLUGIN, "env": [{"name": ""}]}}, "an entry without a name"),
        ({"exec": {**PLUGIN, "args": ["a\0b"]}}, "must not contain NUL"),
        ({"exec": {**PLUGIN, "env": [{"name": "A", "value": "\0"}]}}, "must not contain NUL"),
        (
            {
                "exec": {
                    "command": "x",
                    "apiVersion": "client.authentication.k8s.io/v1",
                    "interactiveMode": "Always",
                }
            },
            "no terminal to ask at",
        ),
        (
            {
                "exec": {
                    "command": "x",
                    "apiVersion": "client.authentication.k8s.io/v1",
                    "env": [{"name": "A", "value": 5}],
                }
            },
            "env a list of name and value",
        ),
        ({"token": 7}, "put it in quotes"),
        ({"token": "t", "username": "u"}, "exclude each other"),
        ({"as-groups": ["dev"]}, "need as, the user to act as"),
        ({"as": "jane", "as-groups": "dev"}, "as-groups must be a list of strings"),
        ({"as": "jane", "as-user-extra": {"a": "b"}}, "a mapping of such lists"),
    ],
)
def test_users_that_cannot_authenticate(
    tmp_path: Path, values: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        user(tmp_path, **values)
    assert sentence in str(caught.value)


def test_in_a_pod_the_service_account_is_used_when_nothing_else_is_there(tmp_path: Path) -> None:
    write(tmp_path / "token", "abc")
    environment = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "6443"}
    with pytest.raises(errors.ConfigError, match=r"ca\.crt"):
        rest_config.load(None, None, environment=environment, service_account=tmp_path)
    home = {**environment, "HOME": str(tmp_path)}
    write(tmp_path / ".kube" / "config", config("mine"))
    access = rest_config.load(None, None, environment=home, service_account=tmp_path)
    assert access.context == "mine"


@pytest.mark.parametrize("value", ["", ":", "/nowhere/config", "/nowhere/a:/nowhere/b"])
def test_a_kubeconfig_variable_without_files_is_none(tmp_path: Path, value: str) -> None:
    write(tmp_path / "token", "abc")
    write(tmp_path / "ca.crt", tls.certificate(tmp_path, "ca")[0].read_text())
    environment = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBECONFIG": value}
    access = rest_config.load("", "", environment=environment, service_account=tmp_path)
    assert (access.server, access.context) == ("https://10.0.0.1:443", rest_config.IN_CLUSTER)


def test_impersonation_asks_to_act_as_another_user(tmp_path: Path) -> None:
    extra = {"example.com/Zone": ["a", "b"], "ü": ["1"]}
    found = user(tmp_path, **{"as": "jane", "as-groups": ["dev"], "as-user-extra": extra})
    assert found.impersonation == (
        ("Impersonate-User", "jane"),
        ("Impersonate-Group", "dev"),
        ("Impersonate-Extra-example.com%2FZone", "a"),
        ("Impersonate-Extra-example.com%2FZone", "b"),
        ("Impersonate-Extra-%C3%BC", "1"),
    )


def test_without_tls_no_secret_is_sent_and_impersonation_is(tmp_path: Path) -> None:
    plain = [{"name": "test", "cluster": {"server": "http://a.invalid"}}]
    users = [{"name": "test", "user": {"token": "secret", "as": "jane"}}]
    path = write(tmp_path / "config", config(clusters=plain, users=users))
    assert kubeconfig.read([path], None).user == kubeconfig.User(
        impersonation=(("Impersonate-User", "jane"),)
    )


@pytest.mark.parametrize(
    "server",
    ["https://[::1", "https://a.invalid:99999", "https://a.invalid:http", "a.invalid:8001 "],
)
def test_a_server_that_is_no_url_is_a_sentence(tmp_path: Path, server: str) -> None:
    cluster = {"server": server}
    path = write(tmp_path / "config", config(clusters=[{"name": "test", "cluster": cluster}]))
    with pytest.raises(errors.ConfigError, match=r"server is .* but must be an http\(s\) URL"):
        rest_config.load(str(path), None, environment={})


@pytest.mark.parametrize("proxy", ["http://", "http://[::1", "http://:3128", "http://p:http"])
def test_a_proxy_without_a_host_or_with_no_port_is_refused(tmp_path: Path, proxy: str) -> None:
    """To go past it would be worse: the server may not be meant to see where we are."""
    cluster = {"server": "http://a.invalid", "proxy-url": proxy}
    path = write(tmp_path / "config", config(clusters=[{"name": "test", "cluster": cluster}]))
    with pytest.raises(errors.ConfigError, match="proxy"):
        rest_config.load(str(path), None, environment={})
    cluster = {"server": "http://a.invalid"}
    write(path, config(clusters=[{"name": "test", "cluster": cluster}]))
    with pytest.raises(errors.ConfigError, match="proxy"):
        rest_config.load(str(path), None, environment={"HTTP_PROXY": proxy})
