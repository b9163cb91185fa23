"""Ages and durations in kubectl's manner: `5s`, `3m12s`, `4h`, `2d3h`."""

from datetime import UTC, datetime


def age(created: str | None, now: datetime) -> str:
    """How long ago an RFC 3339 time was; `<unknown>` for none and for what is no time."""
    try:
        moment = datetime.fromisoformat(created or "").astimezone(UTC)
    except (ValueError, OverflowError):
        return "<unknown>"
    return human_duration(int((now - moment).total_seconds()))


def human_duration(seconds: int) -> str:
    """As apimachinery's `duration.HumanDuration`: two units while the larger is small, else one."""
    if seconds < -1:
        return "<invalid>"
    seconds = max(seconds, 0)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    for limit, text in (
        (seconds < 120, f"{seconds}s"),
        (minutes < 10, _two(minutes, "m", seconds % 60, "s")),
        (minutes < 180, f"{minutes}m"),
        (hours < 8, _two(hours, "h", minutes % 60, "m")),
        (hours < 48, f"{hours}h"),
        (days < 8, _two(days, "d", hours % 24, "h")),
        (days < 730, f"{days}d"),
    ):
        if limit:
            return text
    return _two(days // 365, "y", days % 365, "d") if days < 8 * 365 else f"{days // 365}y"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"
