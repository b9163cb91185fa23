"""Rules in a real kernel: `kproxy explain --apply-in-namespace`.

Namespaces of its own, a client, a node and the pods, and in the node the rules of a mode, or
kproxy itself. Nothing outside of them is touched.
"""
