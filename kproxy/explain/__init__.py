"""`kproxy explain`: what a client of a Service would meet, and why.

`evidence` is what is known, as frozen data; `gather` collects it, from a running proxy or from
objects alone; `questions` makes the answer of it, which is a pure function.
"""
