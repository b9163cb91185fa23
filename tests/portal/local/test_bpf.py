"""BPF by hand: what the assembler writes, and what the kernel's verifier says of it."""

import errno
import os

import pytest
import structlog.testing

from kproxy.portal.local import bpf

REGISTER = bpf.Register
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to load BPF programs")


def loaded(made: bpf.Assembler) -> bpf.Program:
    """The program, once the verifier has let it in."""
    code = made.assembled()
    return bpf.Program(bpf.ProgramKind.SK_LOOKUP, bpf.AttachPoint.SK_LOOKUP, "test", code)


def test_jumps_go_to_their_labels() -> None:
    made = bpf.Assembler()
    made.set(REGISTER.R0, 7)
    made.jump_if_equal(REGISTER.R0, 7, "end")
    made.set(REGISTER.R0, 0)
    made.label("end")
    made.exit()

    instructions = [made.assembled()[at : at + 8].hex() for at in range(0, 32, 8)]

    assert instructions == [
        "b700000007000000",
        "1500010007000000",  # one instruction is passed over
        "b700000000000000",
        "9500000000000000",
    ]


def test_a_jump_to_nowhere_is_an_error() -> None:
    made = bpf.Assembler()
    made.jump("nowhere")
    with pytest.raises(KeyError, match="nowhere"):
        made.assembled()


def test_a_label_is_given_once() -> None:
    made = bpf.Assembler()
    made.label("here")
    with pytest.raises(ValueError, match="here"):
        made.label("here")


@needs_root
def test_the_verifier_lets_a_harmless_program_in() -> None:
    made = bpf.Assembler()
    made.set(REGISTER.R0, 1)
    made.exit()
    loaded(made).close()


@needs_root
def test_the_verifiers_last_words_are_in_the_log() -> None:
    made = bpf.Assembler()
    made.load(REGISTER.R0, REGISTER.R3, 0)  # R3 is not set
    made.exit()

    with structlog.testing.capture_logs() as lines, pytest.raises(OSError, match="denied") as found:
        loaded(made)

    assert found.value.errno == errno.EACCES
    (line,) = lines
    assert line["log_level"] == "debug"
    assert any("R3 !read_ok" in each for each in line["lines"])


@needs_root
def test_a_map_holds_what_is_put_in() -> None:
    held = bpf.Map(bpf.MapKind.HASH, "test", key=4, value=8, entries=2)
    try:
        held[b"abcd"] = b"12345678"
        assert held[b"abcd"] == b"12345678"
        del held[b"abcd"]
        for look in (held.__getitem__, held.__delitem__):
            with pytest.raises(OSError, match="No such file"):
                look(b"abcd")
        held[b"0000"] = held[b"0001"] = bytes(8)
        with pytest.raises(OSError, match="too long") as found:
            held[b"0002"] = bytes(8)
        assert found.value.errno == errno.E2BIG
    finally:
        held.close()
        held.close()
    with pytest.raises(ValueError, match="closed"):
        held[b"0000"] = bytes(8)


@needs_root
def test_a_program_can_use_a_map() -> None:
    held = bpf.Map(bpf.MapKind.HASH, "test", key=4, value=8, entries=2)
    made = bpf.Assembler()
    made.store_number(-4, 0)
    made.load_map(REGISTER.R1, held)
    made.point(REGISTER.R2, -4)
    made.call(bpf.Helper.MAP_LOOKUP)
    made.jump_if_different(REGISTER.R0, 0, "found")
    made.set(REGISTER.R0, 1)
    made.exit()
    made.label("found")
    made.load(REGISTER.R0, REGISTER.R0, 4)
    made.set(REGISTER.R0, 0)
    made.exit()
    loaded(made).close()
    held.close()
