"""What the package as a whole promises to those who install, import and read it."""

import ast
import importlib
import importlib.metadata
import importlib.resources
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import kproxy
from kproxy import errors

MODULES = sorted(
    each.name
    for each in pkgutil.walk_packages(kproxy.__path__, "kproxy.")
    if each.name != "kproxy.__main__"
)
VAGUE = {"utils", "util", "helpers", "helper", "common", "core", "manager", "misc"}


STOP_WORDS = set(
    re.findall(
        r"\w+",
        "a an the of to in on for and or is are be as by it its this that with at from all any "
        "each every one what which whether how now so not no has have was were will them those",
    )
)
LONGEST_SELF_EXPLAINING = 10
"""Statements; more of them do something that a name does not say."""
OWNED = re.compile(r"\b(socket\.socket|StreamSocket|Popen)\b")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Documented(NamedTuple):
    """A module, a class or a function, the class it is in, and its docstring."""

    path: str
    node: ast.Module | ast.ClassDef | Function
    owner: str = ""

    @property
    def name(self) -> str:
        own = getattr(self.node, "name", "")
        return f"{self.path}: {self.owner}.{own}" if self.owner else f"{self.path}: {own}"

    @property
    def text(self) -> str:
        return ast.get_docstring(self.node) or ""


def definitions(path: str, tree: ast.Module) -> Iterator[Documented]:
    """The module, and the classes, functions and methods in it, public ones only."""
    yield Documented(path, tree)
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | Function) or node.name.startswith("_"):
            continue
        yield Documented(path, node)
        if isinstance(node, ast.ClassDef):
            methods = [each for each in node.body if isinstance(each, Function)]
            yield from (
                Documented(path, each, node.name)
                for each in methods
                if not each.name.startswith("_")
            )


def own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """What a function itself consists of, without the functions in it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Function | ast.Lambda | ast.ClassDef):
            yield child
            yield from own_nodes(child)


def reasons_to_document(function: Function) -> list[str]:
    """What the name and the types of a function leave unsaid."""
    parameters = [
        *function.args.posonlyargs,
        *function.args.args,
        *function.args.kwonlyargs,
    ]
    types = {
        each.arg: ast.unparse(each.annotation) for each in parameters if each.annotation is not None
    }
    returned = ast.unparse(function.returns) if function.returns else ""
    inside = list(own_nodes(function))
    has_text = ast.get_docstring(function) is not None
    statements = sum(isinstance(each, ast.stmt) for each in inside) - has_text
    found = {
        "it is long": statements > LONGEST_SELF_EXPLAINING,
        "it raises": any(isinstance(each, ast.Raise) and each.exc for each in inside),
        "it is a generator": any(isinstance(each, ast.Yield | ast.YieldFrom) for each in inside),
        "its result can be None": "| None" in returned,
        "a number has a unit": "float" in returned.split()
        or any(name != "now" and kind == "float" for name, kind in types.items()),
        "a socket or process has an owner": any(
            OWNED.search(kind) for kind in (returned, *types.values())
        ),
        "it has many parameters": len(types) > 3,
    }
    return [reason for reason, holds in found.items() if holds]


def adds_nothing(each: Documented) -> bool:
    """Whether a docstring has no word that the names around it do not have."""
    assert isinstance(each.node, Function)
    names = " ".join(
        [
            each.path,
            each.owner,
            each.node.name,
            ast.unparse(each.node.args),
            ast.unparse(each.node.returns) if each.node.returns else "",
        ]
    )
    spelled = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", names).replace("_", " ")
    known = set(map(stem, re.findall(r"[a-z]+", spelled.lower())))
    said = set(re.findall(r"[a-z0-9]+", each.text.lower())) - STOP_WORDS
    return not {word for word in said if stem(word) not in known}


def stem(word: str) -> str:
    """A word without its ending, roughly."""
    return re.sub(r"(?<=...)(ing|ed|es|s|e|er|ion)$", "", word)


def functions_of(documented: list[Documented]) -> list[Documented]:
    """The functions and methods among them."""
    return [each for each in documented if isinstance(each.node, Function)]


@pytest.fixture(scope="module")
def package() -> list[Documented]:
    """What there is to document in the whole package."""
    folder = Path(kproxy.__file__).parent
    return [
        each
        for path in sorted(folder.rglob("*.py"))
        for each in definitions(str(path.relative_to(folder.parent)), ast.parse(path.read_text()))
    ]


def test_there_are_modules_to_judge() -> None:
    assert {"kproxy.server", "kproxy.cli.main", "kproxy.datapath.tcp.relay"} <= set(MODULES)


def test_every_module_can_be_imported() -> None:
    assert [importlib.import_module(name).__name__ for name in MODULES] == MODULES


def test_every_module_and_class_is_documented(package: list[Documented]) -> None:
    silent = [
        each.name
        for each in package
        if not isinstance(each.node, Function) and each.node.body and not each.text
    ]

    assert silent == []


def test_a_function_is_documented_where_its_name_and_types_do_not_say_it_all(
    package: list[Documented],
) -> None:
    """Errors, units, what None means, who owns a socket: docs/contributing.md has the rule."""
    functions = functions_of(package)
    silent = {
        each.name: reasons
        for each in functions
        if isinstance(each.node, Function)
        and not each.text
        and (reasons := reasons_to_document(each.node))
    }

    assert silent == {}
    assert len(functions) > 1000


def test_no_docstring_repeats_the_name_it_stands_under(package: list[Documented]) -> None:
    functions = functions_of(package)

    assert [each.name for each in functions if each.text and adds_nothing(each)] == []


@pytest.mark.parametrize(
    ("source", "reasons"),
    [
        ("def port(self) -> int: return self._port", []),
        ("def find(name: str) -> Backend | None: return None", ["its result can be None"]),
        ("def wait(seconds: float) -> None: pass", ["a number has a unit"]),
        ("def pick(now: float) -> Backend: return self.best", []),
        ("def check(x: int) -> None:\n  if x: raise ValueError(x)", ["it raises"]),
        ("def give(x: socket.socket) -> None: pass", ["a socket or process has an owner"]),
        ("def all(x: int) -> Iterator[int]: yield x", ["it is a generator"]),
    ],
)
def test_what_a_function_leaves_unsaid(source: str, reasons: list[str]) -> None:
    [function] = ast.parse(source).body
    assert isinstance(function, Function)

    assert reasons_to_document(function) == reasons


@pytest.mark.parametrize(
    ("source", "is_empty"),
    [
        ('def close(self):\n  """Close it."""', True),
        ('def service_names(self):\n  """The names of all Services."""', True),
        ('def close(self):\n  """Close it; connections go on."""', False),
    ],
)
def test_which_docstrings_add_nothing(source: str, is_empty: bool) -> None:
    [function] = ast.parse(source).body
    assert isinstance(function, Function)

    assert adds_nothing(Documented("m.py", function)) is is_empty


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
        "CommandNotFoundError": 127,
        "CommandNotExecutableError": 126,
        "NotServedError": 1,
        "PortalRefusedError": 1,
        "PortalUnavailableError": 1,
    }
