"""kube-proxy's other modes: what they would program for the same objects. Pure, and never applied.

kproxy itself forwards in userspace. These renderings show what the same Services look like in
iptables, ipvs and nftables mode, for people who compare or learn.
"""
