"""The strategies of what applications are configured with."""

from collections.abc import Mapping

from kproxy.simulator.kinds.configuration import secret_rules
from kproxy.simulator.store import registry, resources
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.ruled_strategy import RuledStrategy


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
    }
