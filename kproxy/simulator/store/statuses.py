"""Errors of the API: an exception for each reason, with kube-apiserver's words.

The wording follows apimachinery's `pkg/api/errors/errors.go` and
`pkg/util/validation/field/errors.go`: clients and people match on it.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Self

from kproxy.simulator.store.resources import Resource


class Cause(NamedTuple):
    """One field that is wrong. `message` is what follows the field's path in the error."""

    reason: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def invalid_value(field: str, value: object, detail: str) -> Cause:
    """The field's value breaks a rule: `Invalid value: "x": must be …`."""
    return Cause("FieldValueInvalid", field, f"Invalid value: {quoted(value)}: {detail}")


def malformed_value(
    field: str, text: str, syntax: Callable[[str], Iterable[str]]
) -> Iterator[Cause]:
    """What is wrong with the field's text: a cause for each sentence of `syntax`, see `formats`."""
    for rule in syntax(text):
        yield invalid_value(field, text, rule)


def required_value(field: str, detail: str = "") -> Cause:
    """The field is missing."""
    return Cause("FieldValueRequired", field, f"Required value{detail and ': '}{detail}")


def duplicate_value(field: str, value: object) -> Cause:
    """The value must be unique in its list and is not."""
    return Cause("FieldValueDuplicate", field, f"Duplicate value: {quoted(value)}")


def too_long_value(field: str, longest: int) -> Cause:
    """The value has more than `longest` bytes. The message does not repeat it."""
    return Cause("FieldValueTooLong", field, f"Too long: may not be more than {longest} bytes")


def not_supported_value(field: str, value: object, supported: Iterable[str]) -> Cause:
    """The value is none of the values that the field may have."""
    choices = ", ".join(f'"{choice}"' for choice in supported)
    return Cause(
        "FieldValueNotSupported",
        field,
        f"Unsupported value: {quoted(value)}: supported values: {choices}",
    )


def forbidden_value(field: str, detail: str) -> Cause:
    """The field may not be set here, or not be changed."""
    return Cause("FieldValueForbidden", field, f"Forbidden: {detail}")


def quoted(value: object) -> str:
    """A value as messages show it, as JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)


class StatusError(Exception):
    """A request that failed. `body()` is the Status object that the client gets.

    `retry_after` in seconds becomes the Retry-After header, and `details.retryAfterSeconds`.
    `metadata` is that of the Status; only an expired list uses it, for its `continue`.
    """

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: dict[str, Any] | None = None,
        *,
        retry_after: int | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details if details is None else dict(details)
        self.retry_after = retry_after
        self.metadata = metadata or {}
        if retry_after is not None:
            self.details = {**(self.details or {}), "retryAfterSeconds": retry_after}

    def renamed(self, names: Iterable[tuple[str, str]]) -> Self:
        """The same error with other names of fields, in its message and in its causes."""

        def with_names(text: str) -> str:
            for old, new in names:
                text = text.replace(old, new)
            return text

        details = self.details
        if details is not None and "causes" in details:
            causes = [
                {name: with_names(text) for name, text in cause.items()}
                for cause in details["causes"]
            ]
            details = {**details, "causes": causes}
        message = with_names(self.message)
        return type(self)(self.code, self.reason, message, details, metadata=self.metadata)

    def body(self) -> dict[str, Any]:
        """The `v1` Status."""
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details is not None:
            status["details"] = self.details
        return status | {"code": self.code}


def success(resource: Resource, name: str, uid: str = "") -> dict[str, Any]:
    """The Status that answers a deletion that is complete."""
    details = _details(resource, name) | ({"uid": uid} if uid else {})
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    }


def not_found(resource: Resource, name: str) -> StatusError:
    """No object of this name."""
    return StatusError(
        404, "NotFound", f'{resource.qualified} "{name}" not found', _details(resource, name)
    )


def no_such_path() -> StatusError:
    """The URL names no group, version, resource or subresource that the server has."""
    return StatusError(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(resource: Resource, name: str) -> StatusError:
    """A create met an object of that name."""
    return StatusError(
        409,
        "AlreadyExists",
        f'{resource.qualified} "{name}" already exists',
        _details(resource, name),
    )


STALE = (
    "the object has been modified; please apply your changes to the latest version and try again"
)


def conflict(resource: Resource, name: str, detail: str = STALE) -> StatusError:
    """The write was prepared from a version of the object that is not the latest."""
    return StatusError(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {resource.qualified} "{name}": {detail}',
        _details(resource, name),
    )


def invalid(resource: Resource, name: str, causes: Sequence[Cause]) -> StatusError:
    """The object breaks rules of its type; `causes` are at least one."""
    texts = [str(cause) for cause in causes]
    all_of_them = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    details: dict[str, Any] = {"name": name} if name else {}
    if resource.group:
        details["group"] = resource.group
    details["kind"] = resource.kind
    details["causes"] = [
        {"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes
    ]
    return StatusError(422, "Invalid", f'{kind} "{name}" is invalid: {all_of_them}', details)


def bad_request(message: str) -> StatusError:
    """The request cannot be understood."""
    return StatusError(400, "BadRequest", message)


def unreadable(resource: Resource, error: Exception) -> StatusError:
    """A field of the object has not the type that it has in the API."""
    kind = resource.kind
    return bad_request(
        f'{kind} in version "{resource.version}" cannot be handled as a {kind}: {error}'
    )


def unauthorized() -> StatusError:
    """No token, or an unknown one."""
    return StatusError(401, "Unauthorized", "Unauthorized")


def forbidden(resource: Resource, name: str, detail: str) -> StatusError:
    """The server understood, and refuses."""
    subject = f'{resource.qualified} "{name}"' if name else resource.qualified
    return StatusError(
        403, "Forbidden", f"{subject} is forbidden: {detail}", _details(resource, name)
    )


def method_not_allowed(resource: Resource, verb: str) -> StatusError:
    """The resource exists, and does not know this verb."""
    return StatusError(
        405,
        "MethodNotAllowed",
        f"{verb} is not supported on resources of kind {json.dumps(resource.qualified)}",
        _details(resource, ""),
    )


def not_implemented(resource: Resource, name: str, detail: str) -> StatusError:
    """Kubernetes can do it, and the simulated cluster cannot."""
    return StatusError(501, "NotImplemented", detail, _details(resource, name))


def not_acceptable(accepted: Sequence[str]) -> StatusError:
    """None of the media types that the client accepts can be produced."""
    return StatusError(
        406,
        "NotAcceptable",
        "only the following media types are accepted: " + ", ".join(accepted),
    )


def unsupported_media_type(accepted: Sequence[str]) -> StatusError:
    """The request's body is in a media type that the server does not read."""
    return StatusError(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: "
        + ", ".join(accepted),
    )


def too_old(asked: int, oldest: int) -> StatusError:
    """The history after version `asked` is gone. `oldest` is the first that can be asked for."""
    return StatusError(410, "Expired", f"too old resource version: {asked} ({oldest})")


def continue_expired(inconsistent_continue: str | None) -> StatusError:
    """A list cannot be continued as it began; the token given continues it inconsistently."""
    if inconsistent_continue is None:
        return StatusError(
            410,
            "Expired",
            "The provided continue parameter is too old to display a consistent list result. You "
            "can start a new list without the continue parameter.",
        )
    return StatusError(
        410,
        "Expired",
        "The provided continue parameter is too old to display a consistent list result. You can "
        "start a new list without the continue parameter, or use the continue token in this "
        "response to retrieve the remainder of the results. Continuing with the provided token "
        "results in an inconsistent list - objects that were created, modified, or deleted "
        "between the time the first chunk was returned and now may show up in the list.",
        metadata={"continue": inconsistent_continue},
    )


def too_large_resource_version(asked: int, current: int) -> StatusError:
    """A version was asked for that has not happened yet."""
    return StatusError(
        504,
        "Timeout",
        f"Timeout: Too large resource version: {asked}, current: {current}",
        {
            "causes": [
                {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
            ]
        },
        retry_after=1,
    )


def too_many_requests(retry_after: int) -> StatusError:
    """The server is busy; `retry_after` in seconds."""
    return StatusError(
        429,
        "TooManyRequests",
        "The server has received too many requests and has asked us to try again later",
        retry_after=retry_after,
    )


def internal_error(detail: str) -> StatusError:
    """Something failed that is not the client's fault."""
    return StatusError(
        500,
        "InternalError",
        f"Internal error occurred: {detail}",
        {"causes": [{"message": detail}]},
    )


def _details(resource: Resource, name: str) -> dict[str, Any]:
    details = {"name": name} if name else {}
    if resource.group:
        details["group"] = resource.group
    return details | {"kind": resource.plural}
