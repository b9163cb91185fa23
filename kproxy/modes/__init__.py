"""kube-proxy's modes: the rules that each would program for given objects. Pure, and never applied.

kproxy itself forwards in userspace. These renderings show the same Services in kube-proxy's
userspace, iptables, ipvs and nftables modes, for comparison and teaching.
"""
