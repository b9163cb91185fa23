"""Durations in Go's notation, as users write and read them: `30s`, `5m`, `1h30m`, `250ms`."""

import math
import re
from decimal import Decimal

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"([0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(h|ms|us|µs|ns|m|s)")
_PLAIN = re.compile(r"[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20}")


def seconds(text: str) -> float | None:
    """The seconds of a duration; None for text that is none."""
    if _PLAIN.fullmatch(text):
        return float(text)
    total, at = 0.0, 0
    while found := _PART.match(text, at):
        total += float(Decimal(found[1]) * Decimal(str(_UNITS[found[2]])))
        at = found.end()
    return total if text and at == len(text) else None


def shown(seconds: float) -> str:
    """A duration in Go's notation, without the units that are zero: `1h30m`, `250ms`, `0s`."""
    if not math.isfinite(seconds):
        return "no limit"
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    whole, fraction = divmod(seconds, 1)
    hours, rest = divmod(int(whole), 3600)
    minutes, left = divmod(rest, 60)
    parts = [f"{hours}h"] if hours else []
    parts += [f"{minutes}m"] if minutes else []
    parts += [f"{left + fraction:g}s"] if left or fraction or not parts else []
    return "".join(parts)
