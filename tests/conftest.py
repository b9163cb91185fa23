"""What all tests have in common."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog
from hypothesis.internal import constants_ast
from hypothesis.internal.conjecture import providers

from kproxy.system import privileges
from tests import isolation
from tests.scheduling import pytest_xdist_make_scheduler  # noqa: F401  # a hook

# No test trusts the machine's certificate authorities, nor does any program it starts. Besides,
# reading them takes tens of milliseconds, once for each of some hundred processes and servers.
os.environ["SSL_CERT_FILE"] = os.environ["SSL_CERT_DIR"] = os.devnull

# A test asserts no time, and how long an example takes says most about what else runs here. Each
# run tries the same examples, so that one that fails says something about what was changed;
# `make test-long` tries new ones each time.
hypothesis.settings.register_profile(
    "same-examples",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "new-examples",
    parent=hypothesis.settings.get_profile("same-examples"),
    derandomize=False,
    print_blob=True,
)
hypothesis.settings.load_profile("same-examples")

_constants_of_loaded_modules = providers._get_local_constants


def _same_constants() -> constants_ast.Constants:
    """None, where each run tries the same examples: each process has loaded other modules."""
    if hypothesis.settings.default is not None and hypothesis.settings.default.derandomize:
        return providers._local_constants
    return _constants_of_loaded_modules()


providers._get_local_constants = _same_constants

# What this process ignores or holds back, every program that a test starts would inherit: two
# signals from a shell without job control that starts `make test &`, SIGHUP from nohup.
# Python itself ignores SIGPIPE and SIGXFSZ, and gives both back to what it starts.
for _number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
    if signal.getsignal(_number) is signal.SIG_IGN:
        _is_interrupt = _number == signal.SIGINT
        signal.signal(_number, signal.default_int_handler if _is_interrupt else signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())

# Programs of tests are asked at 127/8, by way of no proxy that the environment names.
for _name in ("http_proxy", "https_proxy", "all_proxy"):
    os.environ.pop(_name, None)
    os.environ.pop(_name.upper(), None)

# Without bytecode, each of some hundred processes would compile all of kproxy anew, which takes as
# long as everything else that it does. What git ignores may lie here whatever this variable says.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Before a plug-in or a test makes a thread or a socket: see there.
isolation.enter()

# Nothing that is made while tests are collected is ever garbage, and it is a lot: see below.
gc.disable()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a suite be run on another data plane than the one that users have."""
    parser.addoption(
        "--plane",
        choices=("in-process", "process"),
        default="in-process",
        help="where the data plane of the proxies under test is: see tests/plane/remote.py",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Give every proxy that tests make or start the data plane that was asked for."""
    if config.getoption("plane") == "process":
        from kproxy import parts  # noqa: PLC0415
        from tests.plane import remote  # noqa: PLC0415

        parts.make_plane = remote.make_plane
        os.environ["KPROXY_TESTS_PROGRAM"] = "tests.plane.program"
        os.environ["PYTHONPATH"] = str(remote.ROOT)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Let no collection of garbage in a test walk all tests that there are."""
    result = yield
    gc.freeze()
    gc.enable()
    return result


_SIGNALS = (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)


@pytest.fixture(autouse=True)
def _process_as_before() -> Iterator[None]:
    """Undo what a test that runs a command in this process has made of the log.

    Where a test lets a signal end this process, it is a later one that ends, and in silence: with
    SIGPIPE, the first that writes to a socket whose peer is gone.
    """
    before, held = list(map(signal.getsignal, _SIGNALS)), privileges.held()
    yield
    # Every later test of this process would be without them: root's nginx could not start.
    assert privileges.held() == held, "the test has given up capabilities, which cannot be undone"
    structlog.reset_defaults()
    assert list(map(signal.getsignal, _SIGNALS)) == before, "a signal's handler stays behind"


@pytest.fixture(autouse=True)
def _plane(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let planes that record what they are sent be where `--plane` says, too."""
    with pytest.MonkeyPatch.context() as patch:
        if request.config.getoption("plane") == "process":
            from tests.plane import remote_recording  # noqa: PLC0415

            remote_recording.installed(patch)
        yield


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the test's own, as pytest's, but of a short name.

    Unix sockets are made in it, whose paths have 107 bytes at most; pytest-xdist makes them long.
    """
    return tmp_path_factory.mktemp("t")


_LONGEST_NAME = 100


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a long text by its parameter, not by itself.

    A certificate is another one in each process, and pytest-xdist runs nothing at all unless all of
    them have tests of the same names.
    """
    return argname if isinstance(val, str | bytes) and len(val) > _LONGEST_NAME else None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let tests that share an expensive fixture run in the same process.

    pytest-xdist keeps a group together (`--dist loadgroup`). Without one, each of its processes
    would start the proxy, the cluster or the redis-server of a module or session once more.
    """
    if isinstance(item, pytest.Function) and not item.get_closest_marker("xdist_group"):
        shared = _shared_fixture(item)
        if shared:
            item.add_marker(pytest.mark.xdist_group(shared))


def _shared_fixture(item: pytest.Function) -> str:
    """The name and parameter of the widest fixture of ours that a test shares; "" for none."""
    chosen = getattr(item, "callspec", None)
    for name, found in item._fixtureinfo.name2fixturedefs.items():
        if found[-1].scope in {"session", "package", "module"} and found[-1].baseid:
            index = chosen.indices.get(name, 0) if chosen else 0
            return f"{found[-1].baseid}:{name}:{index}"
    return ""
