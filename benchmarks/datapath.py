"""The data path beside its peers: `kproxy bench` with the scenarios and peers of `results/`.

    python -m benchmarks.datapath [--quick] [--rounds N] [--json FILE] [--html FILE]

All options of `kproxy bench` are taken, and may repeat these.
"""

import sys

from kproxy.cli import main

SCENARIOS = ("connect", "request", "bulk", "latency", "idle", "faults")
PEERS = "haproxy,haproxy-checks,nginx"

if __name__ == "__main__":
    chosen = [f"--scenario={name}" for name in SCENARIOS]
    sys.argv = ["kproxy", "bench", *chosen, f"--peers={PEERS}", *sys.argv[1:]]
    main.main()
