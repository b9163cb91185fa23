"""Make what is open equal to what should be: kube-proxy calls this the proxier.

`rules` says what should be true, `proxier` computes the difference and the order of effects,
`runner` decides when, `dataplane` carries it out.
"""
