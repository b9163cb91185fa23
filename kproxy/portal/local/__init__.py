"""The local portal: real ClusterIPs, external and load balancers' addresses on this host.

`routes` makes the kernel take their packets in, `sk_lookup` gives all TCP frontends to one
listening socket per family (`bpf` loads its program), and `local` is the portal. `docs/portals.md`
has pictures.
"""
