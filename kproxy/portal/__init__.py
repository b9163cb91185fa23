"""Portals: how a virtual address becomes connectable.

kube-proxy calls the opening of a Service's addresses `openPortal`. A portal here says where a
frontend is bound; which service port owns an address that several want is decided in `claims`.
"""
