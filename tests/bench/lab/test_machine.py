"""What is told of a machine, and of two that differ."""

from pathlib import Path

import msgspec
import pytest

import kproxy
from kproxy.bench.lab import machine
from tests.bench import reports


def test_this_machine_is_described_with_kproxy_and_every_peer() -> None:
    found = machine.this_machine({"haproxy": "2.6.12"})

    assert found.versions == {"kproxy": kproxy.__version__, "haproxy": "2.6.12"}
    assert found.cores >= 1
    assert found.memory > 2**26
    assert found.kernel.startswith("Linux ")
    assert "Python" in found.python
    assert found.cpu


@pytest.mark.parametrize(
    ("cpuinfo", "model"),
    [
        pytest.param("processor: 0\nmodel name\t: AMD EPYC 9R14 \nflags: fpu\n", "AMD EPYC 9R14"),
        pytest.param("model name: A: B\n", "A: B"),
    ],
)
def test_the_processor_is_named_as_the_kernel_names_it(
    tmp_path: Path, cpuinfo: str, model: str
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(cpuinfo)

    assert machine.cpu_model(path) == model


def test_a_processor_without_a_name_is_named_by_its_architecture(tmp_path: Path) -> None:
    arm = tmp_path / "cpuinfo"
    arm.write_text("processor: 0\nBogoMIPS: 243.75\n")

    assert machine.cpu_model(arm) == machine.cpu_model(tmp_path / "missing")
    assert machine.cpu_model(arm)


def test_only_differences_are_listed() -> None:
    here = reports.MACHINE
    there = msgspec.structs.replace(
        here, cores=8, versions={"kproxy": "0.2.0", "haproxy": here.versions["haproxy"]}
    )

    assert machine.differences(here, here) == []
    assert machine.differences(here, there) == [
        "cores: 8 instead of 2",
        "kproxy: 0.2.0 instead of 0.1.0",
    ]
    assert machine.is_same_hardware(here, here)
    assert not machine.is_same_hardware(here, there)


def test_another_version_does_not_make_another_machine() -> None:
    newer = msgspec.structs.replace(reports.MACHINE, versions={"kproxy": "0.2.0"})

    assert machine.is_same_hardware(reports.MACHINE, newer)
