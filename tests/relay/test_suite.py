"""The suite itself: a broken forwarder fails the cases that are about its mistake."""

import os

import pytest

from tests.relay import cases, forwarder, registry, rig, stream

Fault = forwarder.Fault
_BY_ID = {case.id: case for case in cases.ALL}

_CAUGHT_BY = {
    Fault.CLOSES_BOTH_ON_EOF: ["R02", "R03", "R17", "R33"],
    Fault.RESET_AS_EOF: ["R06", "R07", "R08", "R28", "R33"],
    Fault.EOF_AS_RESET: ["R01", "R04", "R10", "R31"],
    Fault.DROPS_TAIL: ["R04", "R22"],
    Fault.REPEATS: ["R01", "R12"],
    Fault.LEAKS: ["R33", "R34"],
    Fault.DROPS_URGENT: ["R20", "R21"],
    Fault.BUFFERS: ["R15"],
    Fault.IGNORES_SILENT_RESET: ["R09"],
    Fault.CLIENT_FIRST: ["R16"],
    Fault.FIN_CANCELS_DIAL: ["R17"],
    Fault.DIALS_ON: ["R18"],
    Fault.NEVER_ENDS_HALF_CLOSED: ["R27"],
    Fault.KEEPS_SOCKETS: ["R01", "R16"],
}


@pytest.mark.parametrize(
    ("fault", "case"),
    [
        # That every mistake is caught is for every run; by which other cases, for `make test-all`.
        pytest.param(
            fault,
            _BY_ID[name],
            id=f"{name} when {fault.value}",
            marks=[] if name == names[0] else [pytest.mark.extra],
        )
        for fault, names in _CAUGHT_BY.items()
        for name in names
    ],
)
async def test_a_case_fails_for_a_proxy_with_its_mistake(fault: Fault, case: registry.Case) -> None:
    with rig.listen(("127.0.0.1", 0)) as listener:
        proxy = forwarder.Forwarder(listener.getsockname(), 1.0, fault)
        try:
            target = rig.Target(proxy.address, listener, os.getpid(), 1.0, prompt=2.0)
            outcome = await registry.run(case, rig.Rig(target))
        finally:
            await proxy.aclose()
    assert outcome.result is registry.Result.FAIL


def test_every_fault_is_caught_by_some_case() -> None:
    assert set(_CAUGHT_BY) == set(Fault)


_ONE = stream.Stream(1, stream.TO_BACKEND)
_TWO = stream.Stream(2, stream.TO_BACKEND)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        pytest.param(_ONE.read(0, 100) + _ONE.read(133, 200), "lost", id="a gap"),
        pytest.param(_ONE.read(0, 100) + _ONE.read(50, 200), "duplicated", id="a repetition"),
        pytest.param(_ONE.read(0, 100) + _TWO.read(100, 200), "leaked", id="another's bytes"),
        pytest.param(_ONE.read(0, 100) + bytes(200), "corrupted", id="zeroes"),
    ],
)
def test_the_checker_tells_kinds_of_damage_apart(data: bytes, word: str) -> None:
    with pytest.raises(AssertionError, match=word):
        stream.Checker(stream.Stream(1, stream.TO_BACKEND)).feed(data)


@pytest.mark.parametrize("cut", [1, 15, 16, 17, stream.BLOCK - 1, stream.BLOCK, 3 * stream.BLOCK])
def test_a_stream_is_the_same_however_it_is_cut(cut: int) -> None:
    size = 4 * stream.BLOCK + 5
    checker = stream.Checker(stream.Stream(7, stream.TO_CLIENT))
    whole = stream.Stream(7, stream.TO_CLIENT).read(0, size)
    for start in range(0, min(size, 1000 * cut), cut):
        checker.feed(whole[start : start + cut])
    assert checker.offset == min(size, 1000 * cut)
