"""The settings of Ingress, which `config.Config` inherits."""

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from kproxy import errors, settings
from kproxy.model.judging import class_names

_HTTP = settings.Listen("0.0.0.0", 80)  # noqa: S104  # other hosts are its clients
_HTTPS = settings.Listen("0.0.0.0", 443)  # noqa: S104
_OWN_HTTP = settings.Listen("127.0.0.1", 8080)
_OWN_HTTPS = settings.Listen("127.0.0.1", 8443)

DESCRIPTORS = 16
"""Open files that serving Ingresses takes: sockets, pipes, files being written, tests of nginx."""


class Upstream(StrEnum):
    """Values of --ingress-upstream: where nginx sends the requests for a Service."""

    SERVICE = "service"
    ENDPOINTS = "endpoints"


def _is_root() -> bool:
    return os.geteuid() == 0


@dataclass(frozen=True, kw_only=True)
class IngressSettings:
    """How Ingresses are served, if `ingress` says that they are.

    Without slots: a class can have only one base with them.
    """

    ingress: bool = settings.setting(
        False,  # noqa: FBT003  # a default
        settings.Switch(),
        "Serve Ingresses by an nginx that kproxy starts.",
    )
    ingress_http: settings.Listen | None = settings.setting(
        _OWN_HTTP,
        settings.ListenAddress(_OWN_HTTP),
        'Where Ingresses are served in plain HTTP; port 0 picks one, "" for nowhere.',
        shown_default=f"{_OWN_HTTP}, for root {_HTTP}",
        needs="--ingress",
        absent=lambda: _HTTP if _is_root() else _OWN_HTTP,
    )
    ingress_https: settings.Listen | None = settings.setting(
        _OWN_HTTPS,
        settings.ListenAddress(_OWN_HTTPS),
        'Where Ingresses are served by TLS; port 0 picks one, "" for nowhere.',
        shown_default=f"{_OWN_HTTPS}, for root {_HTTPS}",
        needs="--ingress",
        absent=lambda: _HTTPS if _is_root() else _OWN_HTTPS,
    )
    ingress_class: str = settings.setting(
        class_names.DEFAULT,
        class_names.SETTING,
        "Serve the Ingresses of this class, and, where its IngressClass is the default, those that "
        "name none.",
        needs="--ingress",
    )
    ingress_upstream: Upstream = settings.setting(
        Upstream.SERVICE,
        settings.OneOf(Upstream),
        "Where nginx sends requests: to the Service, of which kproxy picks an endpoint, or to the "
        "endpoints themselves, with a reload of nginx at every change of them.",
        needs="--ingress",
    )
    nginx: Path | None = settings.setting(
        None,
        settings.File("/usr/sbin/nginx"),
        "The program that serves Ingresses.",
        shown_default="nginx in PATH or /usr/sbin",
        needs="--ingress",
    )

    def check_ingress(self) -> None:
        """Raise ConfigError for values that cannot work together."""
        if self.ingress and self.ingress_http is None and self.ingress_https is None:
            raise errors.ConfigError(
                "--ingress has nowhere to listen: give --ingress-http or --ingress-https an "
                "address, or leave --ingress out"
            )
