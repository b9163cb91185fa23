"""iptables mode as a `mode.Mode`."""

from kproxy.modes.iptables import classic, modern, rule, shared
from kproxy.modes.mode import Part
from kproxy.modes.world import Release, World


def tables(seen: World) -> tuple[rule.Table, rule.Table]:
    """The filter and the nat table as kube-proxy of the world's release makes them."""
    if seen.node.release is Release.V1_33:
        return modern.tables(seen)
    return classic.tables(seen)


class IptablesMode:
    """Satisfies `mode.Mode`: chains of rules, walked from the top for each new connection."""

    name = "iptables"

    def render(self, seen: World) -> tuple[Part, ...]:
        """The rules, as iptables-save would show them."""
        return (shared.part(tables(seen), seen.node.family),)
