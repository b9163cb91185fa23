"""TLS: which certificate each host is served with."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from kproxy.ingress import certificates, table
from kproxy.ingress.rules import remarks
from kproxy.model import names
from kproxy.model.kinds.ingress import ingresses, secret_kind

_CONSEQUENCE = "it is served with kproxy's own certificate, which clients refuse"


class Tls:
    """Chooses certificates for hosts: of two Ingresses that give one, the older counts."""

    def __init__(
        self, secrets: Mapping[names.NamespacedName, secret_kind.TlsSecret], now: float
    ) -> None:
        self._secrets = secrets
        self._now = now
        self._chosen: dict[str, _Chosen] = {}

    def add(self, ingress: ingresses.Ingress, said: remarks.Remarks) -> Generator[None, None, None]:
        """Use what an Ingress says for its hosts. Older ones must have been added before."""
        hosts = {rule.host: None for rule in ingress.rules if rule.host}
        named: set[str] = set()
        for entry in ingress.tls:
            named.update(entry.hosts)
            for host in hosts:
                if _covers(entry, host):
                    yield
                    self._choose(host, ingress, entry.secret, said)
        used = {each for each in named if any(_is_within(host, each) for host in hosts)}
        for host in sorted(named - used):
            said.note("TlsHostUnused", f"spec.tls names {host}, and no rule has that host")

    def is_given(self, host: str) -> bool:
        """Whether an Ingress asks for TLS on this host, with a good certificate or not."""
        return host in self._chosen

    def certificate(self, host: str) -> table.Certificate | None:
        """The certificate of this host; None for the controller's own."""
        found = self._chosen.get(host)
        return found.certificate if found else None

    def _choose(
        self, host: str, ingress: ingresses.Ingress, secret: str, said: remarks.Remarks
    ) -> None:
        name = names.NamespacedName(ingress.name.namespace, secret) if secret else None
        older = self._chosen.get(host)
        if older is None:
            certificate = self._load(host, name, said) if name else None
            self._chosen[host] = _Chosen(ingress.name, name, certificate)
        elif older.secret != name and older.ingress != ingress.name:
            said.warn(
                "Conflict",
                f"host {host} is served with the certificate that Ingress {older.ingress} gives, "
                f"which is older; not with {secret or 'its own'}",
            )

    def _load(
        self, host: str, name: names.NamespacedName, said: remarks.Remarks
    ) -> table.Certificate | None:
        secret = self._secrets.get(name)
        if secret is None:
            said.warn(
                "SecretNotFound",
                f"host {host}: there is no Secret {name} of type {secret_kind.TYPE_TLS}; "
                f"{_CONSEQUENCE}",
            )
            return None
        try:
            certificate, facts = certificates.examine(secret)
        except certificates.BadCertificateError as error:
            said.warn("BadCertificate", f"host {host}: Secret {name} {error}; {_CONSEQUENCE}")
            return None
        if facts.ends < self._now:
            said.warn(
                "CertificateExpired",
                f"host {host}: the certificate in {name} expired on {_date(facts.ends)}",
            )
        elif facts.begins > self._now:
            said.warn(
                "CertificateNotYetValid",
                f"host {host}: the certificate in {name} is not valid before {_date(facts.begins)}",
            )
        if not facts.covers(host):
            shown = ", ".join(facts.names[:4]) or "no DNS name"  # as many as a sentence bears
            said.warn(
                "CertificateForOtherHosts",
                f"host {host}: the certificate in {name} is for {shown}; clients will refuse it",
            )
        return certificate


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Which Ingress gave a host its certificate, by which Secret."""

    ingress: names.NamespacedName
    secret: names.NamespacedName | None
    certificate: table.Certificate | None


def _covers(entry: ingresses.Tls, host: str) -> bool:
    """Whether an entry is for this host. One without hosts is for all of its Ingress."""
    return not entry.hosts or any(_is_within(host, each) for each in entry.hosts)


def _is_within(host: str, named: str) -> bool:
    if host == named:
        return True
    return named.startswith("*.") and host.partition(".")[2] == named.removeprefix("*.")


def _date(moment: float) -> str:
    """A moment, and not how long ago it is: the same problem must read the same tomorrow."""
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"
