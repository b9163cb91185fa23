"""Pods as the API server keeps them, and the annotations by which a simulated pod behaves."""

import copy
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec

from kproxy.simulator.kinds import conditions
from kproxy.simulator.kinds.behaviour import answers
from kproxy.simulator.store import formats, registry, resources, statuses, storage
from kproxy.simulator.store.storage import Object

ANNOTATION_PORTS = "kproxy.io/ports"
"""Ports to listen on beside the containerPorts, from the next start on: "8080,9090"."""
ANNOTATION_HTTPS_PORTS = "kproxy.io/https-ports"
"""Ports of those, or further ones, on which it speaks HTTPS: "8443"."""
ANNOTATION_HTTPS_CERTIFICATE = "kproxy.io/https-certificate"
"""The Secret that holds its certificate and key; without it the cluster's authority signs one."""
ANNOTATION_START_DELAY = "kproxy.io/start-delay"
"""Seconds from being scheduled to Running."""
ANNOTATION_READINESS_DELAY = "kproxy.io/readiness-delay"
"""Seconds from Running to Ready, after each start."""
ANNOTATION_READY = "kproxy.io/ready"
""""false": it runs, and is not Ready."""
ANNOTATION_CRASH_AFTER = "kproxy.io/crash-after"
"""Seconds from each start to the next crash, which ends its connections."""
ANNOTATION_SLOW_START = "kproxy.io/slow-start"
"""Seconds over which the delay of answers falls from one second to nothing, after each start."""
ANNOTATION_RESPONSE_DELAY = "kproxy.io/response-delay"
"""Seconds that each answer takes."""
ANNOTATION_BLACK_HOLE = "kproxy.io/black-hole"
""""true": connection attempts get no answer at all, as from a host that is gone."""
ANNOTATION_TERMINATION = "kproxy.io/termination-seconds"
"""Seconds that it serves on after its deletion; then it ends once no request is under way."""

DEFAULT_TERMINATION = 0.5
DEFAULT_GRACE = 30

_SECONDS = re.compile(r"\d{1,6}(\.\d{1,6})?")
_SECONDS_ANNOTATIONS = (
    ANNOTATION_START_DELAY,
    ANNOTATION_READINESS_DELAY,
    ANNOTATION_CRASH_AFTER,
    ANNOTATION_SLOW_START,
    ANNOTATION_RESPONSE_DELAY,
    ANNOTATION_TERMINATION,
)
PORTS_ANNOTATIONS = (ANNOTATION_PORTS, ANNOTATION_HTTPS_PORTS)
_BOOLEAN_ANNOTATIONS = (ANNOTATION_READY, ANNOTATION_BLACK_HOLE)


class Behaviour(NamedTuple):
    """What the annotations ask for. Times in seconds."""

    start_delay: float
    readiness_delay: float
    is_ready: bool
    crash_after: float | None
    slow_start: float
    response_delay: float
    is_black_hole: bool
    termination: float


def behaviour(pod: Object) -> Behaviour:
    """The behaviour of `pod`, whose annotations are valid."""
    given = pod["metadata"].get("annotations") or {}

    def seconds(annotation: str, default: float = 0.0) -> float:
        return float(given.get(annotation, default))

    return Behaviour(
        start_delay=seconds(ANNOTATION_START_DELAY),
        readiness_delay=seconds(ANNOTATION_READINESS_DELAY),
        is_ready=given.get(ANNOTATION_READY) != "false",
        crash_after=seconds(ANNOTATION_CRASH_AFTER) if ANNOTATION_CRASH_AFTER in given else None,
        slow_start=seconds(ANNOTATION_SLOW_START),
        response_delay=seconds(ANNOTATION_RESPONSE_DELAY),
        is_black_hole=given.get(ANNOTATION_BLACK_HOLE) == "true",
        termination=seconds(ANNOTATION_TERMINATION, DEFAULT_TERMINATION),
    )


def annotation_violations(metadata: Object, where: str) -> Iterator[statuses.Cause]:
    """The simulator's annotations that have an invalid value."""
    given = metadata.get("annotations") or {}
    for annotation, value in given.items():
        path = f"{where}.annotations[{annotation}]"
        if annotation in _SECONDS_ANNOTATIONS and not _SECONDS.fullmatch(value):
            yield statuses.invalid_value(path, value, "must be a number of seconds, such as 1.5")
        elif annotation in _BOOLEAN_ANNOTATIONS and value not in {"true", "false"}:
            yield statuses.not_supported_value(path, value, ("true", "false"))
        elif annotation in PORTS_ANNOTATIONS and not all(
            each.strip().isdecimal() and 1 <= int(each) <= 65535 for each in value.split(",")
        ):
            yield statuses.invalid_value(path, value, "must be port numbers, such as 8080,9090")
        elif annotation == ANNOTATION_HTTPS_CERTIFICATE:
            yield from statuses.malformed_value(path, value, formats.dns_1123_subdomain)
        elif annotation == answers.ANNOTATION_ANSWERS:
            yield from _answers(value, path)


def _answers(text: str, where: str) -> Iterator[statuses.Cause]:
    try:
        answers.parse(text)
    except ValueError as error:
        yield statuses.invalid_value(where, text, str(error))


def ports(pod: Object) -> list[int]:
    """The TCP ports that it listens on, each once."""
    declared = [
        port["containerPort"]
        for container in pod["spec"]["containers"]
        for port in container.get("ports") or ()
        if port.get("protocol", "TCP") == "TCP"
    ]
    declared += _listed(pod, ANNOTATION_PORTS) + https_ports(pod)
    return list(dict.fromkeys(declared))


def https_ports(pod: Object) -> list[int]:
    """The ports among them on which it speaks HTTPS."""
    return _listed(pod, ANNOTATION_HTTPS_PORTS)


def certificate_secret(pod: Object) -> str:
    """The name of the Secret with its certificate, "" if it names none."""
    return str((pod["metadata"].get("annotations") or {}).get(ANNOTATION_HTTPS_CERTIFICATE, ""))


def _listed(pod: Object, annotation: str) -> list[int]:
    text = (pod["metadata"].get("annotations") or {}).get(annotation, "")
    return [int(each) for each in text.split(",") if each]


def datagram_ports(pod: Object) -> list[int]:
    """The UDP ports that its containers declare."""
    declared = [
        port["containerPort"]
        for container in pod["spec"]["containers"]
        for port in container.get("ports") or ()
        if port.get("protocol") == "UDP"
    ]
    return list(dict.fromkeys(declared))


def is_ready(pod: Object) -> bool:
    """Whether its Ready condition holds."""
    return conditions.is_true((pod.get("status") or {}).get("conditions"), "Ready")


def is_terminating(pod: Object) -> bool:
    """Whether it was deleted and is not gone yet."""
    return "deletionTimestamp" in pod["metadata"]


def is_finished(pod: Object) -> bool:
    """Whether it will never run again."""
    return (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}


class _ContainerPort(msgspec.Struct, rename="camel"):
    container_port: int
    name: str | None = None
    protocol: str | None = None


class _Container(msgspec.Struct):
    name: str | None = None
    image: str | None = None
    ports: list[_ContainerPort] | None = None


class _PodSpec(msgspec.Struct, rename="camel"):
    containers: list[_Container] | None = None
    node_name: str | None = None
    node_selector: dict[str, str] | None = None
    termination_grace_period_seconds: int | None = None


class _Metadata(msgspec.Struct):
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class PodShape(msgspec.Struct):
    """A Pod, or the template of one, as far as the simulator reads it."""

    metadata: _Metadata | None = None
    spec: _PodSpec | None = None


class PodStrategy(registry.PlainStrategy):
    """The rules for Pods. `now` gives the time that a deletion is counted from."""

    def __init__(self, stored: storage.Storage) -> None:
        self._now = stored.now

    def prepare_create(self, new: Object) -> Object:
        """The Pod to store, with its defaults and pending. Raises BadRequest and Invalid."""
        pod = _readable(new)
        _set_service_account(pod["spec"])
        _check(pod, [*spec_violations(pod["spec"], "spec"), *_annotations(pod)])
        pod["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
        return pod

    def prepare_update(self, old: Object, new: Object) -> Object:
        """Only images may change; metadata may. Raises BadRequest and Invalid."""
        pod = _readable(new)
        causes = list(_annotations(pod))
        if _without_images(old["spec"]) != _without_images(pod["spec"]):
            causes.append(
                statuses.forbidden_value(
                    "spec",
                    "pod updates may not change fields other than "
                    "`spec.containers[*].image`,`spec.initContainers[*].image`,"
                    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to "
                    "existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be "
                    "set to 1 if it was previously negative)",
                )
            )
        _check(pod, causes)
        return pod

    def begin_delete(self, old: Object, grace_seconds: int | None) -> Object | None:
        """A pod that runs gets its grace period, which a later deletion may only shorten."""
        spec = old["spec"]
        grace = grace_seconds
        if grace is None:
            grace = spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE)
        if grace <= 0 or not spec.get("nodeName") or is_finished(old):
            return None
        metadata = old["metadata"]
        if metadata.get("deletionGracePeriodSeconds", grace + 1) <= grace:
            return old
        end = self._now() + timedelta(seconds=grace)
        ending = {
            "deletionTimestamp": storage.timestamp(end),
            "deletionGracePeriodSeconds": grace,
        }
        return {**old, "metadata": {**metadata, **ending}}


def _readable(new: Object) -> Object:
    """A copy with defaults. Raises BadRequest."""
    try:
        msgspec.convert(new, PodShape)
    except msgspec.ValidationError as error:
        raise statuses.unreadable(resources.PODS, error) from error
    pod = copy.deepcopy(new)
    spec = pod["spec"] = pod.get("spec") or {}
    set_spec_defaults(spec)
    return pod


def _set_service_account(spec: Object) -> None:
    """What the admission plugin ServiceAccount does; `serviceAccount` is the old name."""
    name = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
    spec["serviceAccountName"] = spec["serviceAccount"] = name


def set_spec_defaults(spec: Object) -> None:
    """`SetDefaults_PodSpec` and `SetDefaults_Container`, as far as they show."""
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    spec.setdefault("terminationGracePeriodSeconds", DEFAULT_GRACE)
    for container in spec.get("containers") or ():
        image = container.get("image") or ""
        is_latest = ":" not in image.rpartition("/")[2] or image.endswith(":latest")
        container.setdefault("imagePullPolicy", "Always" if is_latest else "IfNotPresent")
        container.setdefault("resources", {})
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        for port in container.get("ports") or ():
            port["protocol"] = port.get("protocol") or "TCP"


def spec_violations(spec: Object, where: str) -> Iterator[statuses.Cause]:
    """What is wrong with a pod's spec: containers, their names and ports."""
    containers = spec.get("containers") or []
    if not containers:
        yield statuses.required_value(f"{where}.containers")
    seen = set()
    for index, container in enumerate(containers):
        path = f"{where}.containers[{index}]"
        name = container.get("name") or ""
        if not name:
            yield statuses.required_value(f"{path}.name")
        elif name in seen:
            yield statuses.duplicate_value(f"{path}.name", name)
        if name:
            yield from statuses.malformed_value(f"{path}.name", name, formats.dns_1123_label)
        seen.add(name)
        if not container.get("image"):
            yield statuses.required_value(f"{path}.image")
        yield from _container_ports(container.get("ports") or [], f"{path}.ports")


def _container_ports(declared: list[Any], where: str) -> Iterator[statuses.Cause]:
    names = set()
    for index, port in enumerate(declared):
        path = f"{where}[{index}]"
        number = port["containerPort"]
        if not 1 <= number <= 65535:
            yield statuses.invalid_value(f"{path}.containerPort", number, formats.PORT_RULE)
        if port["protocol"] not in {"TCP", "UDP", "SCTP"}:
            supported = ("SCTP", "TCP", "UDP")
            yield statuses.not_supported_value(f"{path}.protocol", port["protocol"], supported)
        if name := port.get("name"):
            yield from statuses.malformed_value(f"{path}.name", name, formats.port_name)
            if name in names:
                yield statuses.duplicate_value(f"{path}.name", name)
            names.add(name)


def _annotations(pod: Object) -> Iterator[statuses.Cause]:
    return annotation_violations(pod["metadata"], "metadata")


def _check(pod: Object, causes: list[statuses.Cause]) -> None:
    if causes:
        raise statuses.invalid(resources.PODS, pod["metadata"]["name"], causes)


def _without_images(spec: Object) -> Object:
    containers = [{**each, "image": ""} for each in spec.get("containers") or ()]
    return {**spec, "containers": containers, "tolerations": None}
