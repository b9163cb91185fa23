"""Make what is open equal to what should be: kube-proxy calls this the proxier.

`rules` says what should be true, `proxier` computes the difference and the order of effects,
`runner` decides when; a data plane (`kproxy.plane`) carries it out.
"""
