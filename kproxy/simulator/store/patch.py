"""JSON patch (RFC 6902) and merge patch (RFC 7386), and the choice among the three kinds."""

from typing import Any, Literal, TypeAlias

import jsonpatch
import jsonpointer

from kproxy.simulator.store import statuses, strategic_merge
from kproxy.simulator.store.storage import Object

Type: TypeAlias = Literal["json", "merge", "strategic"]

MOST_OPERATIONS = 10_000
"""kube-apiserver's limit on a JSON patch (`handlers/patch.go`)."""


def apply(kind: str, old: Object, patch_type: Type, body: Any) -> Object:
    """`old` with the patch applied, a new object; `old` is left as it is.

    Raises `status.StatusError`: BadRequest if the patch cannot be understood, Invalid (422) if
    it does not fit the object.
    """
    if patch_type == "json":
        new = _json(old, body)
    elif not isinstance(body, dict):
        raise statuses.bad_request("the patch is not a JSON object")
    elif patch_type == "merge":
        new = merge(old, body)
    else:
        new = strategic_merge.apply(kind, old, body)
    if not isinstance(new, dict) or not isinstance(new.get("metadata"), dict):
        raise rejected("it leaves no object with metadata")
    return new


def merge(old: Any, patch: Any) -> Any:
    """RFC 7386: maps are merged, null removes, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    new = dict(old) if isinstance(old, dict) else {}
    for field, value in patch.items():
        if value is None:
            new.pop(field, None)
        else:
            new[field] = merge(new.get(field), value)
    return new


def rejected(detail: str) -> statuses.StatusError:
    """The patch is well-formed and cannot be applied to this object."""
    return statuses.StatusError(
        422,
        "Invalid",
        f"the server rejected our request due to an error in our request: {detail}",
    )


def _json(old: Object, body: Any) -> Any:
    if not isinstance(body, list) or not all(isinstance(each, dict) for each in body):
        raise statuses.bad_request("a JSON patch is an array of operations")
    if len(body) > MOST_OPERATIONS:
        raise statuses.StatusError(
            413,
            "RequestEntityTooLarge",
            f"The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {len(body)}",
        )
    try:
        return jsonpatch.apply_patch(old, body)
    except jsonpatch.InvalidJsonPatch as error:
        raise statuses.bad_request(str(error)) from error
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException) as error:
        raise rejected(str(error) or "a test operation failed") from error
    except TypeError as error:
        # The library lets Python's complaint through where a path leads into a scalar.
        raise rejected("a path leads through a value that has no fields") from error
