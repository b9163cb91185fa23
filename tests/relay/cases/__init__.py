"""All cases, in the catalogue's order. Importing this fills the registry."""

from tests.relay import registry
from tests.relay.cases import chaos, dials, endings, transfers

__all__ = ["ALL", "MODULES"]

MODULES = (endings, transfers, dials, chaos)

ALL = tuple(sorted(registry.CASES, key=lambda case: case.id))
