"""The kubelet of all nodes: runs the pods that are bound to one, and reports their status."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import structlog

from kproxy import errors
from kproxy.model import names
from kproxy.simulator import certificates
from kproxy.simulator.controllers import nodes, target_ports
from kproxy.simulator.kinds import addressing, conditions, event_recorder, pods
from kproxy.simulator.kinds.behaviour import pod_files
from kproxy.simulator.machines import pod_answers, pod_certificates, pod_server
from kproxy.simulator.store import registry, resources, statuses, storage
from kproxy.simulator.store.storage import Object

FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 30.0
"""Seconds between a crash and the restart, doubling. The kubelet's own are 10 and 300."""

_log = structlog.get_logger(__name__)


class Kubelet:
    """Starts a task for each bound pod, and ends it when the pod goes.

    Follows `objects` from the time it is made; pods run while `run` does. `authority` gives what
    signs the certificates of those that speak HTTPS. `dns` is the cluster's, None if it has none.
    """

    def __init__(
        self,
        objects: registry.Registry,
        recorder: event_recorder.Recorder,
        pod_cidrs: Mapping[str, Sequence[nodes.Network]],
        authority: Callable[[], certificates.Certificate],
        program: pod_answers.Program | None = None,
        dns: pod_files.ClusterDns | None = None,
    ) -> None:
        self._registry = objects
        self._program = program
        self._recorder = recorder
        self._dns = dns
        self._certificates = pod_certificates.PodCertificates(objects, authority)
        self._addresses = {
            name: [addressing.PodIPs(cidr) for cidr in cidrs] for name, cidrs in pod_cidrs.items()
        }
        self._runs: dict[str, _Running] = {}
        self._tasks: asyncio.TaskGroup | None = None
        objects.storage.subscribe(self._follow)

    async def run(self) -> None:
        """Run pods until cancelled; then all of them end at once."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for pod in self._registry.list(resources.PODS):
                self._start(pod)
            await asyncio.Event().wait()

    def _follow(self, event: storage.Event) -> None:
        if event.resource is resources.SERVICES:
            for running in self._runs.values():
                running.run.service_changed(event)
        if event.resource is not resources.PODS:
            return
        uid = event.object["metadata"]["uid"]
        if uid not in self._runs:
            if event.type != "DELETED":
                self._start(event.object)
        elif event.type == "DELETED":
            self._runs[uid].task.cancel()
        else:
            self._runs[uid].run.changed(event.object)

    def _start(self, pod: Object) -> None:
        """Run `pod` if it is bound to a node of ours."""
        node, uid = pod["spec"].get("nodeName"), pod["metadata"]["uid"]
        if self._tasks is None or node not in self._addresses:
            return
        run = _Run(
            pod, self._registry, self._recorder, self._certificates, self._program, self._dns
        )
        task = self._tasks.create_task(self._contain(run, self._addresses[node]))
        self._runs[uid] = _Running(run, task)

    async def _contain(self, run: "_Run", ranges: Sequence[addressing.PodIPs]) -> None:
        """One pod's run from its addresses to its end; an error in it harms no other pod.

        A run that ended well removes its pod. One that failed leaves it, and the pod's next
        change starts another.
        """
        metadata = run.pod["metadata"]
        name = names.NamespacedName(metadata["namespace"], metadata["name"])
        try:
            with contextlib.ExitStack() as held:
                given = []
                for each in ranges:
                    given.append(each.allocate())
                    held.callback(each.release, given[-1])
                await run.run(given)
        except Exception:
            _log.exception("internal error: a pod failed", pod=str(name))
            return
        finally:
            del self._runs[metadata["uid"]]
        self._registry.remove(resources.PODS, name.name, name.namespace)


class _Running(NamedTuple):
    """A run and the task that it is in; cancelling that is how a removed pod ends."""

    run: "_Run"
    task: "asyncio.Task[None]"


class _Run:
    """One pod, from its node's acceptance to its removal."""

    def __init__(
        self,
        pod: Object,
        objects: registry.Registry,
        recorder: event_recorder.Recorder,
        issuer: pod_certificates.PodCertificates,
        program: pod_answers.Program | None,
        dns: pod_files.ClusterDns | None,
    ) -> None:
        self._dns = dns
        self.pod = pod
        self._program = program
        self._registry = objects
        self._recorder = recorder
        self._certificates = issuer
        self._addresses: Sequence[str] = ()
        self._server: pod_server.PodServer | None = None
        self._declared = pods.ports(pod)
        self._datagram_ports = pods.datagram_ports(pod)
        self._port_notes: list[str] = []
        self._restarts = 0
        self._changed = asyncio.Event()
        self._ending = asyncio.Event()
        self._last_state: dict[str, Any] = {}
        self._started = storage.timestamp(objects.storage.now())
        self._note_deletion()

    def changed(self, pod: Object) -> None:
        """Take a new version of the pod from the API."""
        annotations = self.pod["metadata"].get("annotations")
        self.pod = pod
        if pod["metadata"].get("annotations") != annotations:
            self._changed.set()
        self._note_deletion()

    def service_changed(self, event: storage.Event) -> None:
        """Take a new version of a Service, which may change the ports of this pod."""
        if self._declares_ports or not self._addresses:
            return
        namespace = event.object["metadata"]["namespace"]
        versions = (event.object, event.previous or event.object)
        if namespace == self.pod["metadata"]["namespace"] and any(
            target_ports.selects(each, self.pod) for each in versions
        ):
            self._changed.set()

    async def run(self, addresses: Sequence[str]) -> None:
        """Run until the pod is deleted, then finish the requests under way.

        Cancelled, it ends at once.
        """
        self._addresses = addresses
        try:
            async with asyncio.TaskGroup() as group:
                life = group.create_task(self._live())
                await self._ending.wait()
                life.cancel()
            self._event("Killing", f"Stopping container {self._containers()}")
            await self._wind_down()
        finally:
            if self._server is not None:
                self._server.abort()

    def _note_deletion(self) -> None:
        if pods.is_terminating(self.pod):
            self._ending.set()

    async def _live(self) -> None:
        """Start, run and crash, over and over, until cancelled or ended."""
        self._report(_waiting("ContainerCreating"), is_ready=False, phase="Pending")
        await asyncio.sleep(pods.behaviour(self.pod).start_delay)
        backoff = FIRST_BACKOFF
        while True:
            ended = await self._run_once()
            self._restarts += 1
            self._last_state = {"terminated": ended}
            waiting = _waiting("CrashLoopBackOff", f"back-off {backoff:g}s restarting")
            self._report(waiting, is_ready=False)
            self._event("BackOff", "Back-off restarting failed container", is_warning=True)
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF)

    async def _run_once(self) -> dict[str, Any]:
        """One run of the container; how it ended."""
        loop = asyncio.get_running_loop()
        opened_at, started = loop.time(), self._now()
        self._declared, self._port_notes = pods.ports(self.pod), []
        self._datagram_ports = pods.datagram_ports(self.pod)
        try:
            tls = self._certificates.context(self.pod, self._addresses)
        except OSError as error:
            message = f"cannot speak HTTPS: {errors.reason(error)}"
            self._event("Failed", message, is_warning=True)
            return _terminated(started, self._now(), "StartError", 128, message)
        server = pod_server.PodServer(
            lambda: self.pod,
            self._addresses,
            self._ports(),
            self._datagram_ports,
            https_ports=pods.https_ports(self.pod),
            tls=tls,
            program=self._program,
            files=self._file,
        )
        self._server = server
        try:
            await server.open()
            self._event("Started", "Started container " + self._containers())
            await self._serve(server, opened_at, started)
        except OSError as error:
            where = " and ".join(self._addresses)
            message = f"cannot listen on {where}: {errors.reason(error)}"
            self._event("Failed", message, is_warning=True)
            return _terminated(started, self._now(), "StartError", 128, message)
        finally:
            if not self._ending.is_set():
                server.abort()
                self._server = None
        return _terminated(started, self._now(), "Error", 1, "")

    async def _serve(self, server: pod_server.PodServer, opened_at: float, started: str) -> None:
        """Answer, and follow the annotations, until it is time to crash. Raises OSError."""
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            await server.adjust(self._ports())
            self._report_ports()
            asked = pods.behaviour(self.pod)
            now = loop.time()
            ready_at = opened_at + asked.readiness_delay
            crash_at = None if asked.crash_after is None else opened_at + asked.crash_after
            if crash_at is not None and now >= crash_at:
                return
            is_ready = asked.is_ready and now >= ready_at
            self._report({"running": {"startedAt": started}}, is_ready=is_ready)
            moments = [each for each in (ready_at, crash_at) if each is not None and each > now]
            await self._changed_before(min(moments, default=None))

    def _file(self, path: str) -> str | None:
        """A file of the pod's that it shows to those who ask for its path."""
        if self._dns is None:
            return None
        return pod_files.shown(self.pod, path, self._dns, self._addresses)

    def _ports(self) -> list[int]:
        """The ports to listen on: those declared, else those that its Services target."""
        if self._declares_ports:
            return self._declared
        return list(self._target_ports().numbers)

    @property
    def _declares_ports(self) -> bool:
        return bool(self._declared or self._datagram_ports)

    def _target_ports(self) -> target_ports.TargetPorts:
        services = self._registry.list(resources.SERVICES, self.pod["metadata"]["namespace"])
        return target_ports.of(self.pod, services)

    def _report_ports(self) -> None:
        """Record an Event when the ports of a pod without declared ports change."""
        if self._declares_ports:
            return
        found = self._target_ports()
        notes = [found.listening(), *found.unresolved()]
        if notes != self._port_notes:
            self._port_notes = notes
            self._event("TargetPorts", notes[0], is_warning=not found.numbers)
            for sentence in notes[1:]:
                self._event("TargetPorts", sentence, is_warning=True)

    async def _changed_before(self, moment: float | None) -> None:
        """Return when an annotation has changed, and at `moment` at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(moment):
                await self._changed.wait()

    async def _wind_down(self) -> None:
        """Serve a little longer, then finish the requests under way, within the grace period."""
        if self._server is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.pod["metadata"].get("deletionGracePeriodSeconds", 0)):
                await asyncio.sleep(pods.behaviour(self.pod).termination)
                await self._server.drain()
                await self._server.close()
                self._server = None

    def _report(self, state: dict[str, Any], *, is_ready: bool, phase: str = "Running") -> None:
        """Write the status, unless the pod is gone or being deleted."""
        metadata = self.pod["metadata"]
        found = self._registry.find(resources.PODS, metadata["name"], metadata["namespace"])
        if found is None or found["metadata"]["uid"] != metadata["uid"]:
            return
        made = self._status(found, state, is_ready=is_ready, phase=phase)
        try:
            self._registry.update_status(resources.PODS, {**found, "status": made})
        except statuses.StatusError as error:
            _log.error(
                "the API server refused a pod's status", pod=metadata["name"], error=str(error)
            )

    def _status(
        self, pod: Object, state: dict[str, Any], *, is_ready: bool, phase: str
    ) -> dict[str, Any]:
        now = self._now()
        ready = {"reason": "", "message": ""}
        if not is_ready:
            ready = {"reason": "ContainersNotReady", "message": "containers are not ready"}
        made = [
            conditions.condition("Initialized", holds=True, now=now),
            conditions.condition("Ready", holds=is_ready, now=now, **ready),
            conditions.condition("ContainersReady", holds=is_ready, now=now, **ready),
            conditions.condition("PodScheduled", holds=True, now=now),
        ]
        return {
            "phase": phase,
            "conditions": conditions.since(pod["status"].get("conditions") or [], made),
            "hostIP": nodes.ADDRESS,
            "hostIPs": [{"ip": nodes.ADDRESS}],
            "podIP": self._addresses[0],
            "podIPs": [{"ip": each} for each in self._addresses],
            "startTime": self._started,
            "qosClass": "BestEffort",
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "",
                    "containerID": f"kproxy://{pod['metadata']['uid']}",
                    "ready": is_ready,
                    "started": "running" in state,
                    "restartCount": self._restarts,
                    "state": state,
                    "lastState": self._last_state,
                }
                for container in pod["spec"]["containers"]
            ],
        }

    def _containers(self) -> str:
        return ", ".join(each["name"] for each in self.pod["spec"]["containers"])

    def _event(self, reason: str, message: str, *, is_warning: bool = False) -> None:
        record = self._recorder.warning if is_warning else self._recorder.normal
        record("kubelet", self.pod, reason, message)

    def _now(self) -> str:
        return storage.timestamp(self._registry.storage.now())


def _waiting(reason: str, message: str = "") -> dict[str, Any]:
    state = {"reason": reason, "message": message} if message else {"reason": reason}
    return {"waiting": state}


def _terminated(started: str, ended: str, reason: str, code: int, message: str) -> dict[str, Any]:
    made = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": ended}
    return {**made, "message": message} if message else made
