"""The families of a Service's addresses: what is given, what is inferred, what is refused.

The rules are those of `initIPFamilyFields` (`pkg/registry/core/service/storage/alloc.go`),
`ValidateServiceClusterIPsRelatedFields`, `validateUpgradeDowngradeClusterIPs` and
`validateUpgradeDowngradeIPFamilies` (`pkg/apis/core/validation/validation.go`), in their words.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum

from kproxy.simulator.kinds import service_validation
from kproxy.simulator.store import statuses
from kproxy.simulator.store.statuses import Cause
from kproxy.simulator.store.storage import Object

_POLICY = "spec.ipFamilyPolicy"
_FAMILIES = ("IPv4", "IPv6")
_UNCHANGED = "may not change once set"


class Policy(StrEnum):
    """`spec.ipFamilyPolicy`."""

    SINGLE_STACK = "SingleStack"
    PREFER_DUAL_STACK = "PreferDualStack"
    REQUIRE_DUAL_STACK = "RequireDualStack"


def of(address: str) -> str:
    """The family of an address, as `spec.ipFamilies` has it."""
    return "IPv6" if ":" in address else "IPv4"


def violations(spec: Object) -> Iterator[Cause]:
    """What is wrong with addresses, families and policy by themselves."""
    first, every = spec.get("clusterIP") or "", spec.get("clusterIPs") or []
    where = "spec.clusterIPs"
    if first and every and every[0] != first:
        yield statuses.invalid_value(where, every, "first value must match `clusterIP`")
    elif every and not first:
        rule = "must be empty when `clusterIP` is not specified"
        yield statuses.invalid_value(where, every, rule)
    families = spec.get("ipFamilies") or []
    for index, family in enumerate(families):
        path = f"spec.ipFamilies[{index}]"
        if family not in _FAMILIES:
            yield statuses.not_supported_value(path, family, _FAMILIES)
        if family in families[:index]:
            yield statuses.duplicate_value(path, family)
    policy = spec.get("ipFamilyPolicy")
    if policy and policy not in tuple(Policy):
        yield statuses.not_supported_value(_POLICY, policy, sorted(Policy))
    bad = list(_bad_addresses(every))
    yield from bad
    if len(every) > 2:
        yield statuses.invalid_value(where, every, "may only hold up to 2 values")
    if bad:
        return
    if len(every) > 1 and len(every) != len(set(map(of, every))):
        rule = "may specify no more than one IP for each IP family"
        yield statuses.invalid_value(where, every, rule)
    if every != ["None"]:
        for index, (address, family) in enumerate(zip(every, families, strict=False)):
            if family in _FAMILIES and of(address) != family:
                rule = f"expected an {family} value as indicated by `ipFamilies[{index}]`"
                yield statuses.invalid_value(f"{where}[{index}]", address, rule)


def _bad_addresses(every: Sequence[str]) -> Iterator[Cause]:
    for index, text in enumerate(every):
        if index == 0 and text == "None":
            if len(every) > 1:
                rule = "'None' must be the first and only value"
                yield statuses.invalid_value("spec.clusterIPs", list(every), rule)
        else:
            yield from service_validation.address_violations(text, f"spec.clusterIPs[{index}]")


def update_violations(old: Object, new: Object) -> Iterator[Cause]:
    """What an update may not do to addresses and families. Both Services have a cluster IP."""
    before, after = old["spec"], new["spec"]
    if not (service_validation.is_headless(old) and service_validation.is_headless(new)):
        yield from _update(before, after, "clusterIPs", "clusterIP", "primary clusterIP")
    if not service_validation.is_headless(old) and not service_validation.is_headless(new):
        yield from _update(before, after, "ipFamilies", "ipFamily", "primary ipFamily")


def _update(
    before: Object, after: Object, field: str, released: str, primary: str
) -> Iterator[Cause]:
    old, new = before.get(field) or [], after.get(field) or []
    where = f"spec.{field}"
    if old and not new:
        yield statuses.invalid_value(f"{where}[0]", new, f"{primary} can not be unset")
        return
    kept = max(1, min(len(old), len(new))) if len(old) == len(new) else 1
    for index in range(min(kept, len(old))):
        if old[index] != new[index]:
            yield statuses.invalid_value(f"{where}[{index}]", new, _UNCHANGED)
    policy = after.get("ipFamilyPolicy")
    if len(old) > len(new) == 1 and policy != Policy.SINGLE_STACK:
        rule = f"must be set to 'SingleStack' when releasing the secondary {released}"
        yield statuses.invalid_value(_POLICY, policy, rule)


def complete(service: Object, old: Object | None, configured: Sequence[str]) -> Iterator[Cause]:
    """Fill in families and policy. `configured` is the cluster's families, the default first.

    Yields what is wrong with what was given, in this cluster; the Service is to be refused then.
    """
    spec = service["spec"]
    before = old["spec"] if old and service_validation.needs_cluster_ip(old) else None
    if before and _keeps_preferring(before, spec):
        return
    is_free = service_validation.is_headless(service) and not spec.get("selector")
    if not spec.get("ipFamilyPolicy"):
        default = Policy.REQUIRE_DUAL_STACK if is_free else Policy.SINGLE_STACK
        spec["ipFamilyPolicy"] = (before or {}).get("ipFamilyPolicy") or default.value
    is_single = spec["ipFamilyPolicy"] == Policy.SINGLE_STACK
    found = [*_follow_update(before, spec, is_single=is_single)] if before else []
    for field, what in (("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")):
        if is_single and len(spec.get(field) or ()) == 2:
            rule = (
                "must be 'RequireDualStack' or 'PreferDualStack' when multiple "
                f"{what} are specified"
            )
            found.append(statuses.invalid_value(_POLICY, spec["ipFamilyPolicy"], rule))
    families = list(spec.get("ipFamilies") or ())
    for index, address in enumerate(spec.get("clusterIPs") or ()):
        if address == "None" or index < len(families):
            continue
        if of(address) in configured:
            families.append(of(address))
        else:
            rule = f"{of(address)} is not configured on this cluster"
            where = f"spec.clusterIPs[{index}]"
            found.append(statuses.invalid_value(where, spec["clusterIPs"], rule))
    if found:
        yield from found
        return
    if not is_free:
        yield from _unconfigured(spec, families, configured)
    families = families or [configured[0]]
    if not is_single and len(families) == 1 and (is_free or len(configured) == 2):
        families.append(next(each for each in _FAMILIES if each not in families))
    spec["ipFamilies"] = families


def _keeps_preferring(before: Object, after: Object) -> bool:
    """Whether nothing was said about a preference, which a cluster's change does not carry out."""
    same = all(before.get(field) == after.get(field) for field in ("clusterIPs", "ipFamilies"))
    policies = {each.get("ipFamilyPolicy") for each in (before, after)}
    return same and policies == {Policy.PREFER_DUAL_STACK}


def _follow_update(before: Object, after: Object, *, is_single: bool) -> Iterator[Cause]:
    """SingleStack alone gives the second address up; anything else must not leave it out."""
    for field, what in (("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")):
        old, new = before.get(field) or [], after.get(field) or []
        if is_single and new == old:
            after[field] = new[:1]
        elif not is_single and new and len(new) < len(old):
            rule = f"must be 'SingleStack' to release the secondary {what}"
            yield statuses.invalid_value(_POLICY, after["ipFamilyPolicy"], rule)


def _unconfigured(
    spec: Object, families: Sequence[str], configured: Sequence[str]
) -> Iterator[Cause]:
    if spec["ipFamilyPolicy"] == Policy.REQUIRE_DUAL_STACK and len(configured) < 2:
        rule = "this cluster is not configured for dual-stack services"
        yield statuses.invalid_value(_POLICY, spec["ipFamilyPolicy"], rule)
    for index, family in enumerate(families):
        if family not in configured:
            rule = "not configured on this cluster"
            yield statuses.invalid_value(f"spec.ipFamilies[{index}]", family, rule)
