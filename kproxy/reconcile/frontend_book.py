"""The one book of which frontends are open: what a data plane was asked, and what it answered.

A data plane answers each `OpenFrontend` once, in the order of the requests, perhaps later and
perhaps when the frontend is no longer wanted. Only the answer to the last request for an address
says anything about that address.
"""

import msgspec

from kproxy.model import forwarding, names
from kproxy.portal import claims


class _Request(msgspec.Struct, gc=False):
    """`known` is why the request before this one failed, "" if it did not."""

    claim: claims.Claim
    known: str
    is_open: bool = False


class Change(msgspec.Struct, frozen=True, gc=False):
    """What an answer has changed. `reason` is why the frontend cannot be opened, "" if it can."""

    claim: claims.Claim
    reason: str
    is_news: bool
    """Whether a failure has another reason than the one before."""


class FrontendBook:
    """The state of each address: requested (and perhaps open), failed, or neither."""

    def __init__(self) -> None:
        self._requests: dict[forwarding.PortalAddress, _Request] = {}
        self._failed: dict[forwarding.PortalAddress, str] = {}
        self._unanswered: dict[forwarding.PortalAddress, int] = {}
        self._opening: dict[names.ServicePortName, int] = {}
        self.open = 0
        """How many frontends are open."""

    @property
    def opening(self) -> int:
        """How many frontends are asked for and neither open nor failed yet."""
        return len(self._requests) - self.open

    def is_opening(self, name: names.ServicePortName) -> bool:
        """Whether some frontend of a service port is asked for and neither open nor failed."""
        return name in self._opening

    @property
    def failed(self) -> list[forwarding.PortalAddress]:
        """What could not be opened, the longest known first."""
        return list(self._failed)

    @property
    def has_failures(self) -> bool:
        """Whether something could not be opened."""
        return bool(self._failed)

    def failure(self, address: forwarding.PortalAddress) -> str | None:
        """Why `address` could not be opened."""
        return self._failed.get(address)

    def claim(self, address: forwarding.PortalAddress) -> claims.Claim | None:
        """The claim for which `address` is open or being opened."""
        request = self._requests.get(address)
        return request.claim if request is not None else None

    def is_open(self, address: forwarding.PortalAddress) -> bool:
        """Whether the data plane listens on `address`."""
        request = self._requests.get(address)
        return request is not None and request.is_open

    def ask(self, address: forwarding.PortalAddress, claim: claims.Claim) -> None:
        """The data plane is asked to open `address`, which it was not before."""
        self._requests[address] = _Request(claim, self._failed.pop(address, ""))
        self._unanswered[address] = self._unanswered.get(address, 0) + 1
        self._opening[claim.name] = self._opening.get(claim.name, 0) + 1

    def fail(self, address: forwarding.PortalAddress, claim: claims.Claim, reason: str) -> Change:
        """The portal could not make `address` ready for `claim`: nothing was asked."""
        known = self._failed.pop(address, "")
        self._failed[address] = reason
        return Change(claim, reason, is_news=reason != known)

    def admit(self, address: forwarding.PortalAddress, admitted: forwarding.Admission) -> bool:
        """Record which clients `address` admits now; False if it was not requested."""
        request = self._requests.get(address)
        if request is None:
            return False
        request.claim = msgspec.structs.replace(request.claim, admitted=admitted)
        return True

    def unask(self, address: forwarding.PortalAddress) -> None:
        """The request could not be sent, so no answer will come."""
        self._settle(address)
        self.close(address)

    def close(self, address: forwarding.PortalAddress) -> bool:
        """The data plane is asked to close `address`; False if it need not be."""
        request = self._requests.pop(address, None)
        if request is None:
            return False
        if request.is_open:
            self.open -= 1
        else:
            self._end_opening(request.claim.name)
        return True

    def give_up(self, address: forwarding.PortalAddress) -> None:
        """`address` is no longer wanted: forget its failure."""
        self._failed.pop(address, None)

    def answer(self, report: forwarding.Report) -> Change | None:
        """Take an answer of the data plane; None if the request that it answers is out of date."""
        if self._settle(report.address):
            return None
        request = self._requests.get(report.address)
        if request is None:
            return None
        self._end_opening(request.claim.name)
        if isinstance(report, forwarding.Opened):
            request.is_open = True
            self.open += 1
            return Change(request.claim, "", is_news=True)
        del self._requests[report.address]
        self._failed[report.address] = report.reason
        return Change(request.claim, report.reason, is_news=report.reason != request.known)

    def _end_opening(self, name: names.ServicePortName) -> None:
        left = self._opening.pop(name) - 1
        if left:
            self._opening[name] = left

    def _settle(self, address: forwarding.PortalAddress) -> int:
        """Count one answer for the address; returns how many requests still have none."""
        left = self._unanswered.pop(address, 1) - 1
        if left > 0:
            self._unanswered[address] = left
        return left
