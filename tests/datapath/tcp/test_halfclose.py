"""How an ended direction is relayed: a FIN only for a stream that arrived whole."""

import pytest

from kproxy.datapath.tcp import halfclose


@pytest.mark.parametrize(
    ("source_failed", "destination_failed", "opposite_ended", "action"),
    [
        pytest.param(False, False, False, halfclose.HALF_CLOSE, id="a first FIN is passed on"),
        pytest.param(False, False, True, halfclose.CLOSE, id="a second FIN ends the connection"),
        pytest.param(True, False, False, halfclose.ABORT, id="a reset source"),
        pytest.param(True, False, True, halfclose.ABORT, id="a reset source, half-closed"),
        pytest.param(False, True, False, halfclose.ABORT, id="a lost destination"),
        pytest.param(False, True, True, halfclose.ABORT, id="a lost destination, half-closed"),
        pytest.param(True, True, False, halfclose.ABORT, id="both lost"),
        pytest.param(True, True, True, halfclose.ABORT, id="both lost, half-closed"),
    ],
)
def test_a_reset_is_never_passed_on_as_a_fin_nor_a_fin_as_a_reset(
    source_failed: bool, destination_failed: bool, opposite_ended: bool, action: halfclose.Action
) -> None:
    failed = source_failed or destination_failed
    assert halfclose.AFTER_END[failed][opposite_ended] == action


def test_reasons_are_distinct_pairs_of_cause_and_phase() -> None:
    assert len(set(halfclose.REASONS)) == len(halfclose.REASONS) == 19
    for reason in halfclose.REASONS:
        who, phase = reason.split("/")
        assert who in {"C", "B", "P", "T", "R", "K", "A", "E"}
        assert phase in {"P", "D", "X", "H"}
