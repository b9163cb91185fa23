"""Measurements beside those of `kproxy bench`, and the records of its runs in `results/`.

Modules are commands, `python -m benchmarks.NAME`, whose docstrings say what is measured, but for
two that others use: `comparison` measures kproxy beside another program in turns, and `nsd`
configures a DNS server. Generators, backends, peers and reports are those of `kproxy.bench`.
"""
