"""Deployments as the API server keeps them: defaults and validation (`apps/v1`)."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from kproxy.simulator.kinds import pods
from kproxy.simulator.store import registry, resources, statuses
from kproxy.simulator.store.storage import Object

_PERCENT = re.compile(r"(\d+)%")
_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


class _Requirement(msgspec.Struct):
    key: str
    operator: str
    values: list[str] | None = None


class _Selector(msgspec.Struct, rename="camel"):
    match_labels: dict[str, str] | None = None
    match_expressions: list[_Requirement] | None = None


class _RollingUpdate(msgspec.Struct, rename="camel"):
    max_surge: int | str | None = None
    max_unavailable: int | str | None = None


class _StrategyShape(msgspec.Struct, rename="camel"):
    type: str | None = None
    rolling_update: _RollingUpdate | None = None


class _Spec(msgspec.Struct, rename="camel"):
    replicas: int | None = None
    selector: _Selector | None = None
    template: pods.PodShape | None = None
    strategy: _StrategyShape | None = None
    min_ready_seconds: int | None = None
    progress_deadline_seconds: int | None = None
    paused: bool | None = None


class _Shape(msgspec.Struct):
    spec: _Spec | None = None


class DeploymentStrategy(registry.PlainStrategy):
    """The rules for Deployments."""

    def prepare_create(self, new: Object) -> Object:
        """The Deployment to store, with its defaults. Raises BadRequest and Invalid."""
        made = _readable(new)
        _check(made, list(_violations(made)))
        made["status"] = {}
        return made

    def prepare_update(self, old: Object, new: Object) -> Object:
        """The same in place of `old`, whose selector it must have."""
        made = _readable(new)
        causes = list(_violations(made))
        if old["spec"]["selector"] != made["spec"]["selector"]:
            selector = made["spec"]["selector"]
            causes.append(statuses.invalid_value("spec.selector", selector, "field is immutable"))
        _check(made, causes)
        return made


def matches(selector: Object, labels: Object) -> bool:
    """Whether `labels` satisfy a valid LabelSelector."""
    wanted = selector.get("matchLabels") or {}
    return wanted.items() <= labels.items() and all(
        _satisfies(requirement, labels) for requirement in selector.get("matchExpressions") or ()
    )


def _satisfies(requirement: Object, labels: Object) -> bool:
    key, values = requirement["key"], requirement.get("values") or ()
    match requirement["operator"]:
        case "In":
            return key in labels and labels[key] in values
        case "NotIn":
            return key not in labels or labels[key] not in values
        case "Exists":
            return key in labels
        case _:
            return key not in labels


def resolved(value: int | str, of: int, *, up: bool) -> int:
    """A number of pods, from a valid number or percentage of `of`."""
    if isinstance(value, int):
        return value
    percent = int(value.removesuffix("%"))
    return -(-percent * of // 100) if up else percent * of // 100


def _readable(new: Object) -> Object:
    """A copy with defaults (`SetDefaults_Deployment`). Raises BadRequest."""
    try:
        msgspec.convert(new, _Shape)
    except msgspec.ValidationError as error:
        raise statuses.unreadable(resources.DEPLOYMENTS, error) from error
    made = copy.deepcopy(new)
    spec = made["spec"] = made.get("spec") or {}
    if spec.get("replicas") is None:
        spec["replicas"] = 1
    strategy = spec["strategy"] = spec.get("strategy") or {}
    strategy["type"] = strategy.get("type") or "RollingUpdate"
    if strategy["type"] == "RollingUpdate":
        rolling = strategy["rollingUpdate"] = strategy.get("rollingUpdate") or {}
        for field in ("maxUnavailable", "maxSurge"):
            if rolling.get(field) is None:
                rolling[field] = "25%"
    for field, default in (("revisionHistoryLimit", 10), ("progressDeadlineSeconds", 600)):
        if spec.get(field) is None:
            spec[field] = default
    spec["selector"] = spec.get("selector") or {}
    template = spec["template"] = spec.get("template") or {}
    template["metadata"] = template.get("metadata") or {}
    template["metadata"].setdefault("creationTimestamp", None)
    template["spec"] = template.get("spec") or {}
    pods.set_spec_defaults(template["spec"])
    return made


def _violations(deployment: Object) -> Iterator[statuses.Cause]:
    spec = deployment["spec"]
    if spec["replicas"] < 0:
        rule = "must be greater than or equal to 0"
        yield statuses.invalid_value("spec.replicas", spec["replicas"], rule)
    template = spec["template"]
    yield from _selector(spec["selector"], template["metadata"].get("labels") or {})
    yield from _strategy(spec["strategy"])
    yield from pods.annotation_violations(template["metadata"], "spec.template.metadata")
    yield from pods.spec_violations(template["spec"], "spec.template.spec")
    if template["spec"]["restartPolicy"] != "Always":
        yield statuses.not_supported_value(
            "spec.template.spec.restartPolicy", template["spec"]["restartPolicy"], ("Always",)
        )


def _selector(selector: Object, labels: Object) -> Iterator[statuses.Cause]:
    if not selector:
        yield statuses.required_value("spec.selector")
        return
    expressions = selector.get("matchExpressions") or []
    for index, each in enumerate(expressions):
        if each["operator"] not in _OPERATORS:
            yield statuses.invalid_value(
                f"spec.selector.matchExpressions[{index}].operator",
                each["operator"],
                "not a valid selector operator",
            )
            return
    if not matches(selector, labels):
        yield statuses.invalid_value(
            "spec.template.metadata.labels", labels, "`selector` does not match template `labels`"
        )


def _strategy(strategy: Object) -> Iterator[statuses.Cause]:
    where = "spec.strategy"
    rolling: dict[str, Any] | None = strategy.get("rollingUpdate")
    if strategy["type"] == "Recreate":
        if rolling:
            yield statuses.forbidden_value(
                f"{where}.rollingUpdate",
                "may not be specified when strategy `type` is 'Recreate'",
            )
    elif strategy["type"] != "RollingUpdate":
        supported = ("Recreate", "RollingUpdate")
        yield statuses.not_supported_value(f"{where}.type", strategy["type"], supported)
    else:
        yield from _rolling_update(rolling or {}, f"{where}.rollingUpdate")


def _rolling_update(rolling: Object, where: str) -> Iterator[statuses.Cause]:
    faults = False
    for field in ("maxUnavailable", "maxSurge"):
        value = rolling[field]
        if isinstance(value, str) and not _PERCENT.fullmatch(value):
            rule = "a valid percent string must be a numeric string followed by an ending '%'"
            yield statuses.invalid_value(f"{where}.{field}", value, rule)
            faults = True
        elif isinstance(value, int) and value < 0:
            rule = "must be greater than or equal to 0"
            yield statuses.invalid_value(f"{where}.{field}", value, rule)
            faults = True
    if not faults and all(rolling[field] in {0, "0%"} for field in ("maxUnavailable", "maxSurge")):
        yield statuses.invalid_value(
            f"{where}.maxUnavailable",
            rolling["maxUnavailable"],
            "may not be 0 when `maxSurge` is 0",
        )


def _check(deployment: Object, causes: list[statuses.Cause]) -> None:
    if causes:
        raise statuses.invalid(resources.DEPLOYMENTS, deployment["metadata"]["name"], causes)
