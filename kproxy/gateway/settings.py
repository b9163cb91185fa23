"""The settings of the Gateway API."""

from dataclasses import dataclass

from kproxy import settings
from kproxy.model.judging import class_names


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
        class_names.DEFAULT,
        class_names.SETTING,
        "The GatewayClass whose Gateways are served. Its controllerName must be kproxy.io/gateway.",
        needs="--gateway",
    )
