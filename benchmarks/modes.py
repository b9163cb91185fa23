"""How long kube-proxy's other modes take to render: 10,000 Services of two endpoints.

`python -m benchmarks.modes [SERVICES]` prints seconds of CPU time, with a sentence on each rule.
"""

import argparse
import time

from kproxy.model import addresses, names
from kproxy.modes import registry, world

TARGET = 2.0
"""Seconds for 10,000 Services."""


def many(count: int) -> world.World:
    """Service ports with two endpoints each."""
    made = []
    for number in range(count):
        high, low = divmod(number, 250)
        name = names.ServicePortName(names.NamespacedName("many", f"svc-{number}"), "http")
        made.append(
            world.Port(
                name=name,
                text=world.written_name(name, world.Release.V1_33),
                cluster_ip=f"10.96.{high}.{low}",
                number=80,
                everywhere=tuple(
                    world.Backend(addresses.SocketAddress(f"10.244.{high}.{low}", port))
                    for port in (8080, 8081)
                ),
            )
        )
    return world.World(world.Node(cluster_cidr="10.244.0.0/16"), tuple(made))


def main() -> None:
    """Render in every mode."""
    parser = argparse.ArgumentParser()
    parser.add_argument("services", nargs="?", type=int, default=10_000)
    seen = many(parser.parse_args().services)
    for mode in registry.MODES.values():
        began = time.process_time()
        size = sum(len(line) + 1 for line in mode.render(seen)[0].text(comments=True))
        taken = time.process_time() - began
        print(f"{mode.name}: {taken:.2f} s, {size / 1e6:.1f} MB (target {TARGET:.0f} s)")


if __name__ == "__main__":
    main()
