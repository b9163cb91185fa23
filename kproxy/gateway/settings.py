"""The settings of the Gateway API."""

from dataclasses import dataclass

from kproxy import settings
from kproxy.model.judging import field_rules

DEFAULT_CLASS = "kproxy"
_NAME = field_rules.DNS_SUBDOMAIN
_CLASS = settings.Text(
    "NAME", DEFAULT_CLASS, "name", _NAME.words.removeprefix("must be "), _NAME.admits
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """Fields of `config.Config`."""

    gateway: bool = settings.setting(
        False,  # noqa: FBT003  # a default
        settings.Switch(),
        "Serve the Gateway API: TCPRoutes and UDPRoutes at the listeners of Gateways of "
        "--gateway-class.",
    )
    gateway_class: str = settings.setting(
        DEFAULT_CLASS,
        _CLASS,
        "The GatewayClass whose Gateways are served. Its controllerName must be kproxy.io/gateway.",
        needs="--gateway",
    )
