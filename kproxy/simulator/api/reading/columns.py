"""What the tables of all kinds are made of: columns, and how a row reads an object."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

from kproxy.model import ages
from kproxy.simulator.store.storage import Object

NONE = "<none>"


class Column(NamedTuple):
    """A column; those of priority 1 are only in wide output."""

    name: str
    type: str = "string"
    priority: int = 0


Row: TypeAlias = Callable[[Object, datetime], Sequence[Any]]
Layout: TypeAlias = tuple[Sequence[Column], Row]
"""The columns of a kind, and what makes a row of one of its objects."""

NAME, AGE = Column("Name"), Column("Age")


def age_of(item: Object, now: datetime) -> str:
    """How long ago the object was created, as kubectl says it."""
    return ages.age(item["metadata"].get("creationTimestamp"), now)


def value_in(item: Object, *path: str, default: Any) -> Any:
    """The value at a path of fields; `default` if there is none."""
    value: Any = item
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return default if value is None else value


def wide(*names: str) -> tuple[Column, ...]:
    """Columns that are only in wide output."""
    return tuple(Column(name, priority=1) for name in names)
