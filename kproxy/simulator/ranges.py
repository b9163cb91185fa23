"""Address ranges and node ports for a cluster that shares its machine with others.

The first cluster has the ranges that the documentation names, each further one has its own. A
cluster claims its ranges by binding a socket without a file (an abstract name, `unix(7)`): such
names are those of the network namespace, as the addresses are, and end with the process.
"""

import contextlib
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kproxy import errors

NODE_PORTS = range(30000, 32768)
"""The node ports that a Service may ask for."""

_FIRST_PICKED = range(30128, 31408)
_PICKED_BY_OTHERS = 160
_OTHER_BLOCKS = 8
_SECOND_OCTETS = range(225, 244)
_OF_DEMONSTRATIONS = range(128, 224)


@dataclass(frozen=True, slots=True)
class Ranges:
    """Where Services, pods and load balancers have their addresses, as CIDRs; `picked` is the node
    ports for Services that ask for none."""

    services: str
    pods: str
    load_balancers: str
    picked: range
    is_first: bool = False


FIRST = Ranges("127.96.0.0/16", "127.244.0.0/16", "127.112.0.0/24", _FIRST_PICKED, is_first=True)
"""The ranges of the first simulated cluster on a machine."""


def _below(octet: int, picked: range) -> Ranges:
    start = f"127.{octet}"
    return Ranges(f"{start}.0.0/18", f"{start}.64.0/18", f"{start}.128.0/24", picked)


def _others() -> Iterator[Ranges]:
    for number, octet in enumerate(_SECOND_OCTETS):
        block = _FIRST_PICKED.stop + number % _OTHER_BLOCKS * _PICKED_BY_OTHERS
        yield _below(octet, range(block, block + _PICKED_BY_OTHERS))


ALL = (FIRST, *_others())
"""Ranges for as many clusters as can run at once."""

DEMONSTRATIONS = tuple(_below(octet, _FIRST_PICKED) for octet in _OF_DEMONSTRATIONS)
"""Ranges for demonstrations, which have no node ports."""


@contextlib.contextmanager
def claimed(candidates: Sequence[Ranges] = ALL) -> Iterator[Ranges]:
    """The first of `candidates` that no other simulated cluster uses, until the end.

    Others are those in this network namespace. Raises KproxyError when there are none left.
    """
    for candidate in candidates:
        with socket.socket(socket.AF_UNIX) as claim:
            try:
                claim.bind(f"\0kproxy-simulator-{candidate.services}")
            except OSError:
                continue
            yield candidate
            return
    raise errors.KproxyError(
        f"{len(candidates)} simulated clusters run on this machine, "
        "and there are no ranges for more; stop one of them"
    )
