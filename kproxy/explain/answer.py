"""An explanation: what the client meets, why, and what was found on the way there."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kproxy.model import addresses


class Verdict(StrEnum):
    """What the client meets."""

    SERVED = "served"
    REFUSED = "refused"
    DROPPED = "dropped"
    RESET = "reset"
    NOT_PROXIED = "not-proxied"


class Reason(StrEnum):
    """Why, in a word that scripts can rely on."""

    SERVED = "served"
    NO_SUCH_SERVICE = "no-such-service"
    EXTERNAL_NAME = "external-name"
    HEADLESS = "headless"
    NO_CLUSTER_IP = "no-cluster-ip"
    OTHER_PROXY = "other-proxy"
    NO_SUCH_PORT = "no-such-port"
    PROTOCOL_NOT_SERVED = "protocol-not-served"
    NO_SUCH_ADDRESS = "no-such-address"
    PORT_MOVED = "port-moved"
    ADDRESS_REFUSED = "address-refused"
    ADDRESS_UNAVAILABLE = "address-unavailable"
    COLLISION = "collision"
    OVER_BUDGET = "over-budget"
    NO_PODS_MATCH = "no-pods-match"
    NO_ENDPOINT_OBJECTS = "no-endpoint-objects"
    NO_ENDPOINTS = "no-endpoints"
    PORT_NAME = "port-name"
    TARGET_PORT = "target-port"
    PROTOCOL = "protocol"
    NOT_READY = "not-ready"
    WEIGHTS = "weights"
    FAMILY = "family"
    OWN_ADDRESS = "own-address"
    LOCAL_POLICY = "local-policy"
    SOURCE_RANGES = "source-ranges"
    ENDPOINTS_FAIL = "endpoints-fail"


@dataclass(frozen=True, slots=True)
class Step:
    """One question, and the finding. `is_good` is None if it is neither good nor bad."""

    name: str
    finding: str
    is_good: bool | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client meets.

    `endpoint` is where its connection goes, if that is known. `candidates` are the endpoints that
    it may go to. `advice` says what to change, "" if nothing need be changed.
    """

    verdict: Verdict
    reason: Reason
    message: str
    endpoint: addresses.SocketAddress | None = None
    candidates: tuple[addresses.SocketAddress, ...] = ()
    advice: str = ""
    steps: tuple[Step, ...] = ()

    def view(self) -> dict[str, Any]:
        """For JSON. Scripts rely on the names."""
        return {
            "verdict": self.verdict.value,
            "reason": self.reason.value,
            "message": self.message,
            "advice": self.advice,
            "endpoint": str(self.endpoint) if self.endpoint else None,
            "candidates": [str(each) for each in self.candidates],
            "steps": [
                {"name": step.name, "finding": step.finding, "good": step.is_good}
                for step in self.steps
            ],
        }
