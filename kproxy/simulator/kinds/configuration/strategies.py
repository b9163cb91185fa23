"""The strategies of what applications are configured with."""

from collections.abc import Mapping

import msgspec

from kproxy.simulator.kinds.configuration import config_map_rules, secret_rules
from kproxy.simulator.store import registry, resources
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.ruled_strategy import RuledStrategy


class _Reference(msgspec.Struct):
    name: str | None = None


class _ServiceAccount(msgspec.Struct, rename="camel"):
    secrets: list[_Reference] | None = None
    image_pull_secrets: list[_Reference] | None = None
    automount_service_account_token: bool | None = None


def strategies() -> Mapping[Resource, registry.Strategy]:
    """A strategy for each of these resources."""
    return {
        resources.SECRETS: RuledStrategy(
            resources.SECRETS,
            secret_rules.Shape,
            set_defaults=secret_rules.set_defaults,
            violations=secret_rules.violations,
            update_violations=secret_rules.update_violations,
        ),
        resources.CONFIG_MAPS: RuledStrategy(
            resources.CONFIG_MAPS,
            config_map_rules.Shape,
            set_defaults=config_map_rules.set_defaults,
            violations=config_map_rules.violations,
            update_violations=config_map_rules.update_violations,
        ),
        resources.SERVICE_ACCOUNTS: RuledStrategy(resources.SERVICE_ACCOUNTS, _ServiceAccount),
    }
