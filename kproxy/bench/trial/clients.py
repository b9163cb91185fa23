"""What clients meet: connections from the client's namespace, one after the other."""

import socket
import time
from collections import Counter
from dataclasses import dataclass

from kproxy.bench.trial import place
from kproxy.model import addresses

REFUSED = "refused"
SILENCE = "no answer"
ENDED = "ended without a word"
_PATIENCE = 1.0
"""Seconds after which a client that gets no answer gives up."""


@dataclass(frozen=True, slots=True)
class Met:
    """What so many connections met, by endpoint or one of the words above; seconds to connect."""

    outcomes: Counter[str]
    seconds: tuple[float, ...]

    @property
    def failed(self) -> int:
        """Connections that no endpoint served."""
        return sum(self.outcomes[word] for word in (REFUSED, SILENCE, ENDED))


def meet(at: place.Place, target: addresses.SocketAddress, times: int) -> Met:
    """Connect so many times."""
    outcomes: Counter[str] = Counter()
    seconds = []
    with at.client.inside():
        for _ in range(times):
            outcome, taken = _once(target)
            outcomes[outcome] += 1
            if taken is not None:
                seconds.append(taken)
    return Met(outcomes, tuple(seconds))


def _once(target: addresses.SocketAddress) -> tuple[str, float | None]:
    """What one connection meets, and how long the handshake took."""
    started = time.perf_counter()
    try:
        with socket.create_connection(target, _PATIENCE) as sock:
            taken = time.perf_counter() - started
            said = sock.recv(64).decode()
            return said or ENDED, taken
    except TimeoutError:
        return SILENCE, None
    except ConnectionRefusedError:
        return REFUSED, None
    except OSError:
        return ENDED, None
