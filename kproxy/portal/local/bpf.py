"""An assembler for BPF, and the commands of bpf(2) that a portal needs.

It uses no compiler and no library: a program is a list of instructions with labels for its jumps,
and the kernel's verifier checks it. Maps, programs and links are descriptors; the kernel frees them
when the process that holds them ends.

The numbers are those of include/uapi/linux/bpf.h.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Mapping
from enum import IntEnum

import structlog

_log = structlog.get_logger(__name__)

_SYSCALLS: Mapping[str, int] = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "ppc64le": 361,
    "s390x": 351,
}
"""The number of bpf(2), by machine."""

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _PROG_LOAD = 0, 1, 2, 3, 5
_LINK_CREATE = 28
_LOG_BYTES = 1 << 18
_LOG_LINES = 20
"""How many of the verifier's last lines are logged."""
_ATTRIBUTE_BYTES = 128
"""Bytes of union bpf_attr that are used. The kernel takes the missing rest as 0."""
_NAME_BYTES = 16


class Register(IntEnum):
    """R1 to R5 are a call's arguments, R0 its result; R6 to R9 outlive calls."""

    R0 = 0
    R1 = 1
    R2 = 2
    R3 = 3
    R4 = 4
    R5 = 5
    R6 = 6
    R7 = 7
    R8 = 8
    R9 = 9
    FRAME = 10
    """The end of the 512 bytes of stack, which grow downwards."""


class Helper(IntEnum):
    """Functions of the kernel that programs call."""

    MAP_LOOKUP = 1
    SK_RELEASE = 86
    SK_ASSIGN = 124


class MapKind(IntEnum):
    """enum bpf_map_type."""

    HASH = 1
    LPM_TRIE = 11
    SOCKMAP = 15


class ProgramKind(IntEnum):
    """enum bpf_prog_type."""

    SK_LOOKUP = 30


class AttachPoint(IntEnum):
    """enum bpf_attach_type."""

    SK_LOOKUP = 36


class MapFlag(IntEnum):
    """Flags of a map's creation."""

    NO_PREALLOCATION = 1


_INSTRUCTION = struct.Struct("=BBhi")
_MOVE_REGISTER, _MOVE, _ADD = 0xBF, 0xB7, 0x07
_LOAD_WORD, _STORE_WORD, _STORE_NUMBER = 0x61, 0x63, 0x62
_JUMP, _JUMP_EQUAL, _JUMP_DIFFERENT = 0x05, 0x15, 0x55
_CALL, _EXIT = 0x85, 0x95
_LOAD_64, _MAP_DESCRIPTOR = 0x18, 1


class Assembler:
    """Collects instructions; `assembled` has their bytes.

    Words are of 32 bits. Jumps name a label, which may come later, and only forward ones make
    sense to every kernel's verifier.
    """

    def __init__(self) -> None:
        self._made: list[tuple[int, int, int, int | str, int]] = []
        self._labels: dict[str, int] = {}

    def label(self, name: str) -> None:
        """Name the next instruction. Raises ValueError if the name is taken."""
        if name in self._labels:
            raise ValueError(f"the label {name} is there already")
        self._labels[name] = len(self._made)

    def copy(self, to: Register, source: Register) -> None:
        """`to` becomes what `source` is."""
        self._put(_MOVE_REGISTER, to, source)

    def set(self, to: Register, number: int) -> None:
        """`to` becomes a number."""
        self._put(_MOVE, to, immediate=number)

    def point(self, to: Register, offset: int) -> None:
        """`to` becomes the address of the stack at `offset`, which is negative."""
        self.copy(to, Register.FRAME)
        self._put(_ADD, to, immediate=offset)

    def load(self, to: Register, source: Register, offset: int) -> None:
        """`to` becomes the word at `offset` from where `source` points."""
        self._put(_LOAD_WORD, to, source, offset)

    def store(self, offset: int, source: Register) -> None:
        """The word on the stack at `offset` becomes what `source` is."""
        self._put(_STORE_WORD, Register.FRAME, source, offset)

    def store_number(self, offset: int, number: int) -> None:
        """The word on the stack at `offset` becomes a number."""
        self._put(_STORE_NUMBER, Register.FRAME, 0, offset, number)

    def jump(self, label: str) -> None:
        """Go on at `label`."""
        self._put(_JUMP, 0, 0, label)

    def jump_if_equal(self, register: Register, number: int, label: str) -> None:
        """Go on at `label` if `register` is this number."""
        self._put(_JUMP_EQUAL, register, 0, label, number)

    def jump_if_different(self, register: Register, number: int, label: str) -> None:
        """Go on at `label` unless `register` is this number."""
        self._put(_JUMP_DIFFERENT, register, 0, label, number)

    def load_map(self, to: Register, held: "Map") -> None:
        """`to` becomes a map, as helpers take it."""
        self._put(_LOAD_64, to, _MAP_DESCRIPTOR, 0, held.descriptor)
        self._put(0, 0)

    def call(self, helper: Helper) -> None:
        """Call a function of the kernel."""
        self._put(_CALL, 0, immediate=helper)

    def exit(self) -> None:
        """End with R0 as the result."""
        self._put(_EXIT, 0)

    def assembled(self) -> bytes:
        """The program. Raises KeyError for a jump to a label that is not there."""
        made = bytearray()
        for at, (code, to, source, offset, immediate) in enumerate(self._made):
            distance = self._labels[offset] - at - 1 if isinstance(offset, str) else offset
            registers = source << 4 | to if sys.byteorder == "little" else to << 4 | source
            made += _INSTRUCTION.pack(code, registers, distance, immediate)
        return bytes(made)

    def _put(
        self, code: int, to: int, source: int = 0, offset: int | str = 0, immediate: int = 0
    ) -> None:
        self._made.append((code, to, source, offset, immediate))


class Descriptor:
    """A kernel object that lives as long as its descriptor is open. The owner closes it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        """Close the descriptor. A second call does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Map(Descriptor):
    """A map from keys to values, both of fixed size.

    Raises OSError when it cannot be made: EPERM without CAP_BPF.
    """

    def __init__(
        self, kind: MapKind, name: str, *, key: int, value: int, entries: int, flags: int = 0
    ) -> None:
        """`key` and `value` are sizes in bytes, `entries` is the capacity."""
        named = name.encode()[: _NAME_BYTES - 1]
        attributes = struct.pack("=7I16s", kind, key, value, entries, flags, 0, 0, named)
        super().__init__(_bpf(_MAP_CREATE, attributes))
        self._key = ctypes.create_string_buffer(key)
        self._value = ctypes.create_string_buffer(value)
        at_key = struct.pack("=I4xQ", self.descriptor, ctypes.addressof(self._key))
        with_value = at_key + struct.pack("=Q", ctypes.addressof(self._value))
        self._of_key = ctypes.create_string_buffer(at_key, _ATTRIBUTE_BYTES)
        self._of_both = ctypes.create_string_buffer(with_value, _ATTRIBUTE_BYTES)

    def __setitem__(self, key: bytes, value: bytes) -> None:
        """Raises OSError: E2BIG or ENOSPC when the map is full."""
        self._key.raw = key
        self._value.raw = value
        self._call(_MAP_UPDATE, self._of_both)

    def __delitem__(self, key: bytes) -> None:
        """Raises OSError: ENOENT when there is no such key."""
        self._key.raw = key
        self._call(_MAP_DELETE, self._of_key)

    def __getitem__(self, key: bytes) -> bytes:
        """Raises OSError: ENOENT when there is no such key."""
        self._key.raw = key
        self._call(_MAP_LOOKUP, self._of_both)
        return self._value.raw

    def _call(self, command: int, attributes: "ctypes.Array[ctypes.c_char]") -> None:
        if self.descriptor < 0:
            raise ValueError("the map is closed")
        _called(command, attributes)


class Program(Descriptor):
    """A loaded program, which the verifier has accepted.

    Raises OSError when it cannot be loaded; the verifier's last lines are logged at debug level.
    """

    def __init__(
        self, kind: ProgramKind, point: AttachPoint, name: str, instructions: bytes
    ) -> None:
        self._code = ctypes.create_string_buffer(instructions, len(instructions))
        self._kind, self._point, self._name = kind, point, name.encode()[: _NAME_BYTES - 1]
        try:
            super().__init__(self._load(None))
        except OSError as error:
            log = ctypes.create_string_buffer(_LOG_BYTES)
            try:
                # Load it again for the log only: a log that does not fit makes a load fail.
                super().__init__(self._load(log))
            except OSError:
                lines = log.value.decode(errors="replace").splitlines()[-_LOG_LINES:]
                if lines:
                    _log.debug("the verifier refused a BPF program", program=name, lines=lines)
                raise error from None

    def _load(self, log: "ctypes.Array[ctypes.c_char] | None") -> int:
        license_name = ctypes.create_string_buffer(b"Apache-2.0")
        count = len(self._code) // _INSTRUCTION.size
        attributes = struct.pack(
            "=IIQQIIQII16sII",
            self._kind,
            count,
            ctypes.addressof(self._code),
            ctypes.addressof(license_name),
            *((1, _LOG_BYTES, ctypes.addressof(log)) if log is not None else (0, 0, 0)),
            *(0, 0),
            self._name,
            *(0, self._point),
        )
        return _bpf(_PROG_LOAD, attributes)


class Link(Descriptor):
    """An attached program; closing this detaches it."""

    def __init__(self, program: Program, target: int, point: AttachPoint) -> None:
        """Attach to `target`, a descriptor that the caller may close afterwards. Raises OSError."""
        attributes = struct.pack("=IIII", program.descriptor, target, point, 0)
        super().__init__(_bpf(_LINK_CREATE, attributes))


_libc = ctypes.CDLL(None, use_errno=True)
_number = _SYSCALLS.get(platform.machine())


def _bpf(command: int, attributes: bytes) -> int:
    """bpf(2): the new descriptor. Raises OSError."""
    return _called(command, ctypes.create_string_buffer(attributes, _ATTRIBUTE_BYTES))


def _called(command: int, attributes: "ctypes.Array[ctypes.c_char]") -> int:
    if _number is None:
        raise OSError(errno.ENOSYS, f"bpf(2) has no known number on {platform.machine()}")
    result: int = _libc.syscall(_number, command, attributes, _ATTRIBUTE_BYTES)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
