"""`metadata` of objects whose status kproxy writes."""

from kproxy.model import objects


class Metadata(objects.ObjectMeta, frozen=True, gc=False, rename="camel"):
    """With the generation, which counts the changes of `spec`; a status says which one it is of."""

    generation: int | None = None


def generation(given: Metadata | None) -> int:
    """The generation; 0 in files, which have none."""
    return (given.generation if given else None) or 0


def created(given: Metadata | None) -> str:
    """The creation time (RFC 3339, UTC); "" when the source gives none, which counts as oldest."""
    return (given.creation_timestamp if given else None) or ""
