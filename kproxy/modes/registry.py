"""The modes there are, by the name that `--as` gives them."""

from collections.abc import Mapping

from kproxy.modes import ipvs, nftables, userspace
from kproxy.modes.iptables import iptables_mode
from kproxy.modes.mode import Mode

MODES: Mapping[str, Mode] = {
    each.name: each
    for each in (
        userspace.UserspaceMode(),
        iptables_mode.IptablesMode(),
        ipvs.IpvsMode(),
        nftables.NftablesMode(),
    )
}
