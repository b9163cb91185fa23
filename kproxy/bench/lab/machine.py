"""The machine that a run took place on, as far as its figures depend on it."""

import os
import platform
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import kproxy
from kproxy.bench.report import results


def this_machine(versions: Mapping[str, str]) -> results.Machine:
    """This machine. `versions` are those of peers and tools; kproxy's own is added."""
    return results.Machine(
        kernel=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=cpu_model(Path("/proc/cpuinfo")),
        cores=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        python=_python(),
        versions={"kproxy": kproxy.__version__, **versions},
    )


def cpu_model(cpuinfo: Path) -> str:
    """The processor's name; its architecture where the kernel gives no name, as on many ARMs."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    fields = (line.partition(":") for line in lines)
    names = (value.strip() for key, _, value in fields if key.strip() == "model name")
    return next(names, "") or platform.machine()


def _python() -> str:
    """Name, version and how it was configured: a build without profile-guided optimisation costs
    a tenth more per connection, which would otherwise look like a cost of kproxy. Only the
    option is known: a distribution may optimise by other means.
    """
    options = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    is_optimised = "--enable-optimizations" in options
    build = "" if is_optimised else ", configured without --enable-optimizations"
    return f"{platform.python_implementation()} {platform.python_version()}{build}"


def differences(one: results.Machine, other: results.Machine) -> list[str]:
    """The differences between two machines, in a few words each: "cores: 4 instead of 2"."""
    found = [
        f"{name}: {other_value} instead of {value}"
        for name, value, other_value in (
            ("processor", one.cpu, other.cpu),
            ("cores", one.cores, other.cores),
            ("memory", gibibytes(one.memory), gibibytes(other.memory)),
            ("kernel", one.kernel, other.kernel),
            ("Python", one.python, other.python),
        )
        if value != other_value
    ]
    found += [
        f"{name}: {other.versions[name]} instead of {version}"
        for name, version in one.versions.items()
        if name in other.versions and other.versions[name] != version
    ]
    return found


def is_same_hardware(one: results.Machine, other: results.Machine) -> bool:
    """Whether absolute figures of the two machines are comparable."""
    return (one.cpu, one.cores) == (other.cpu, other.cores)


def gibibytes(memory: int) -> str:
    """Bytes of memory for reading: "7.8 GiB"."""
    return f"{memory / 2**30:.1f} GiB"
