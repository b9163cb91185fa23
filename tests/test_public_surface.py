"""What the package as a whole promises to those who install, import and read it."""

import importlib
import importlib.metadata
import importlib.resources
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import kproxy
from kproxy import errors

MODULES = sorted(
    each.name
    for each in pkgutil.walk_packages(kproxy.__path__, "kproxy.")
    if each.name != "kproxy.__main__"
)
VAGUE = {"utils", "util", "helpers", "helper", "common", "core", "manager", "misc"}


def public_members(module: ModuleType) -> list[tuple[str, object]]:
    """Classes and functions that a module defines for others, with their public methods."""
    found: list[tuple[str, object]] = []
    for name, member in vars(module).items():
        if name.startswith("_") or getattr(member, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(member):
            found.append((name, member))
        elif inspect.isclass(member):
            found.append((name, member))
            if getattr(member, "_is_protocol", False):
                continue  # its own docstring says what the methods are, or the kernel's manual
            found += [
                (f"{name}.{each}", method)
                for each, method in vars(member).items()
                if not each.startswith("_") and inspect.isfunction(method)
            ]
    return found


def test_there_are_modules_to_judge() -> None:
    assert {"kproxy.server", "kproxy.cli.main", "kproxy.datapath.tcp.relay"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_and_all_it_offers_is_documented(name: str) -> None:
    module = importlib.import_module(name)

    undocumented = [each for each, member in public_members(module) if not member.__doc__]
    assert undocumented == []
    assert module.__doc__ or not Path(str(module.__file__)).read_text()


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [name for name in MODULES if VAGUE & set(name.split("."))] == []


def test_the_command_is_installed() -> None:
    scripts = importlib.metadata.entry_points(group="console_scripts", name="kproxy")

    assert [each.value for each in scripts] == ["kproxy.cli.main:main"]
    assert all(callable(each.load()) for each in scripts)


def test_the_version_is_one_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+([a-z]+\d+)?", kproxy.__version__)
    assert importlib.metadata.version("kproxy-userspace") == kproxy.__version__


def test_nothing_advises_to_install_by_a_name_that_is_not_ours() -> None:
    root = Path(kproxy.__file__).parents[1]
    texts = [*root.glob("kproxy/**/*.py"), *root.glob("docs/*.md"), root / "README.md"]
    advice = re.compile(r"pip3? install (?:-\S+ )*['\"]?kproxy(?!-userspace)")

    assert len(texts) > 100
    assert [str(each) for each in texts if advice.search(each.read_text())] == []


def test_the_package_says_that_it_is_typed() -> None:
    files = importlib.resources.files(kproxy)

    assert files.joinpath("py.typed").is_file()


def test_every_expected_failure_has_an_exit_code() -> None:
    kinds: list[type[errors.KproxyError]] = [
        errors.KproxyError,
        *errors.KproxyError.__subclasses__(),
    ]

    assert {kind.__name__: kind.exit_code for kind in kinds} == {
        "KproxyError": 1,
        "ConfigError": 2,
        "NotServedError": 1,
        "PortalRefusedError": 1,
        "PortalUnavailableError": 1,
    }
