"""TLS: which certificate a host is served with, and what is wrong with the others."""

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from kproxy.ingress import certificates, table
from tests.ingress.rig import objects, secrets
from tests.ingress.rig.objects import ingress, made, said

HOST = "shop.example"


def tls(*hosts: str, secret: str = "cert") -> list[dict[str, Any]]:
    return [{"hosts": list(hosts), "secretName": secret}]


def secured(name: str = "web", *, host: str = HOST, **more: Any) -> dict[str, Any]:
    return ingress(name, more.pop("path", "Prefix /"), host=host, **{"tls": tls(host)} | more)


def host_of(found: table.Table, name: str = HOST) -> table.VirtualHost:
    (host,) = (each for each in found.hosts if each.name == name)
    return host


def subject(certificate: table.Certificate | None) -> list[str]:
    """The names in a certificate."""
    assert certificate is not None
    leaf = x509.load_pem_x509_certificate(certificate.certificate)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return names.value.get_values_for_type(x509.DNSName)


def test_a_host_has_the_certificate_of_its_secret() -> None:
    found = made(secured(), secrets.secret("cert", [HOST]))
    assert subject(host_of(found).certificate) == [HOST]
    assert not found.problems


@pytest.mark.parametrize(
    ("host", "entry", "of_secret"),
    [
        pytest.param("a.shop.example", ["*.shop.example"], ["*.shop.example"], id="by a wildcard"),
        pytest.param("*.shop.example", ["*.shop.example"], ["*.shop.example"], id="a wildcard"),
        pytest.param(HOST, ["a.example", HOST], ["a.example", HOST], id="one of several"),
        pytest.param(HOST, [], [HOST], id="of an entry without hosts"),
        pytest.param("a.shop.example", ["a.shop.example"], ["*.shop.example"], id="by its names"),
    ],
)
def test_an_entry_is_for_its_hosts(host: str, entry: list[str], of_secret: list[str]) -> None:
    document = secured(host=host, tls=tls(*entry))
    found = made(document, secrets.secret("cert", of_secret))
    assert subject(host_of(found, host).certificate) == of_secret
    assert {each.reason for each in found.problems} <= {"TlsHostUnused"}


def test_hosts_that_no_entry_names_have_none() -> None:
    found = made(secured(host="b.a.shop.example", tls=tls("*.shop.example")))
    host = host_of(found, "b.a.shop.example")
    assert host.certificate is None
    assert not host.prefixes[0][1].redirects
    assert said(found) == {"web": ["TlsHostUnused"]}


RSA_1024 = rsa.generate_private_key(65537, 1024)


@pytest.mark.parametrize(
    ("secret", "reason", "words"),
    [
        pytest.param(None, "SecretNotFound", "there is no Secret default/cert", id="none"),
        pytest.param(
            secrets.secret("cert", [HOST], namespace="other"),
            "SecretNotFound",
            "there is no Secret default/cert",
            id="of another namespace",
        ),
        pytest.param(
            secrets.secret("cert", crt=b"hush"),
            "BadCertificate",
            "no certificate in PEM",
            id="junk",
        ),
        pytest.param(
            secrets.secret("cert", [HOST], private=b"hush"),
            "BadCertificate",
            "no private key in PEM",
            id="junk for a key",
        ),
        pytest.param(
            secrets.secret("cert", [HOST], private=secrets.pem(secrets.key(1))),
            "BadCertificate",
            "a private key that is not its certificate's",
            id="another key",
        ),
        pytest.param(
            secrets.secret("cert", [HOST], private=secrets.pem(RSA_1024)),
            "BadCertificate",
            "a private key that is not its certificate's",
            id="a key of another type",
        ),
        pytest.param(
            secrets.secret("cert", [HOST], private=secrets.pem(password=b"hush")),
            "BadCertificate",
            "a private key that is encrypted",
            id="an encrypted key",
        ),
        pytest.param(
            secrets.secret(
                "cert",
                crt=secrets.certificate(HOST, private=RSA_1024),
                private=secrets.pem(RSA_1024),
            ),
            "BadCertificate",
            "RSA needs 2048 bits",
            id="a short key",
        ),
        pytest.param(
            secrets.secret(
                "cert",
                crt=secrets.certificate(HOST)
                + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            ),
            "BadCertificate",
            "OpenSSL refuses",
            id="a broken chain",
        ),
    ],
)
def test_without_a_good_one_the_controllers_own_is_served_and_it_is_said(
    secret: dict[str, Any] | None, reason: str, words: str
) -> None:
    found = made(secured(), *([secret] if secret else []))
    host = host_of(found)
    assert host.certificate is None
    assert host.prefixes[0][1].redirects
    assert said(found) == {"web": [reason]}
    text = str(found.problems[0])
    assert f"host {HOST}: " in text
    assert words in text
    assert "hush" not in text


@pytest.mark.parametrize(
    ("certificate", "reason", "words"),
    [
        (secrets.certificate(HOST, ends=-60), "CertificateExpired", "expired on 2027-01-15"),
        (secrets.certificate(HOST, begins=60), "CertificateNotYetValid", "before 2027-01-15"),
        (secrets.certificate("a.example"), "CertificateForOtherHosts", "is for a.example"),
        (secrets.certificate(), "CertificateForOtherHosts", "is for no DNS name"),
    ],
)
def test_one_that_clients_will_refuse_is_served_and_said(
    certificate: bytes, reason: str, words: str
) -> None:
    found = made(secured(), secrets.secret("cert", crt=certificate))
    assert host_of(found).certificate is not None
    assert said(found) == {"web": [reason]}
    assert words in str(found.problems[0])


def test_of_two_ingresses_the_older_gives_the_certificate() -> None:
    found = made(
        secured("a", created="2026-01-02T00:00:00Z", path="Prefix /a", tls=tls(HOST, secret="new")),
        secured("b", created="2026-01-01T00:00:00Z", path="Prefix /b"),
        secured("c", created="2026-01-03T00:00:00Z", path="Prefix /c"),
        secrets.secret("cert", [HOST]),
        secrets.secret("new", [HOST, "new.example"]),
    )
    assert subject(host_of(found).certificate) == [HOST]
    assert said(found) == {"a": ["Conflict"]}


class TestRedirects:
    @pytest.mark.parametrize(
        ("annotations", "has_tls", "redirects"),
        [
            ({}, True, True),
            ({}, False, False),
            ({"ssl-redirect": "false"}, True, False),
            ({"force-ssl-redirect": "true"}, False, True),
            ({"force-ssl-redirect": "true", "ssl-redirect": "false"}, True, True),
        ],
    )
    def test_http_is_redirected_where_there_is_tls(
        self, annotations: dict[str, str], *, has_tls: bool, redirects: bool
    ) -> None:
        given = {f"nginx.ingress.kubernetes.io/{key}": each for key, each in annotations.items()}
        document = secured(annotations=given, tls=tls(HOST) if has_tls else [])
        found = made(document, secrets.secret("cert", [HOST]))
        assert host_of(found).prefixes[0][1].redirects is redirects

    def test_an_entry_without_a_secret_asks_for_tls_too(self) -> None:
        found = made(secured(tls=[{"hosts": [HOST]}]))
        assert host_of(found).certificate is None
        assert host_of(found).prefixes[0][1].redirects
        assert not found.problems


def test_keys_are_in_no_repr() -> None:
    found = made(secured(), secrets.secret("cert", [HOST]))
    assert "PRIVATE" not in repr(found)
    assert "CERTIFICATE" not in repr(found)


def test_the_controllers_own_certificate_can_be_served() -> None:
    own = certificates.self_made(objects.NOW)
    secret = secrets.secret("own", crt=own.certificate, private=own.private_key)
    found = made(secured(tls=tls(HOST, secret="own")), secret)
    assert host_of(found).certificate == own
    assert said(found) == {"web": ["CertificateForOtherHosts"]}


def test_many_certificates_are_remembered_and_the_oldest_forgotten() -> None:
    verdicts = certificates.Verdicts(most=2)
    own = [certificates.self_made(objects.NOW) for _ in range(3)]
    first = [verdicts.of(each) for each in own]
    assert verdicts.of(own[2]) is first[2]
    assert verdicts.of(own[1]) is first[1]
    assert verdicts.of(own[0]) is not first[0]
