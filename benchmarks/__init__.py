"""kproxy beside the proxies people know, measured on one machine in one run.

Start reading at `benchmarks.datapath`: it says what is measured and in which order. `peers` are
the proxies, `scenarios` and `blackhole` the loads put on them, `load` the generators and backends
(child processes), `processes` starts, weighs and ends children, `figures` is the arithmetic and
`report` the tables and the JSON.
"""
