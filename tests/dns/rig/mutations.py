"""Packets that are nearly right."""

import random


def mutated(rng: random.Random, packet: bytes) -> bytes:
    """A packet with bytes changed, cut off, put in, or repeated."""
    made = bytearray(packet)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(made) + 1)
        way = rng.randrange(4)
        if way == 0 and at < len(made):
            made[at] = rng.choice((0, 1, 0x3F, 0x40, 0xC0, 0xFF, rng.randrange(256)))
        elif way == 1:
            del made[at:]
        elif way == 2:
            made[at:at] = rng.randbytes(rng.randint(1, 8))
        else:
            made += made[at : at + rng.randint(1, 20)]
    return bytes(made)
