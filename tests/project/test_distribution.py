"""What is built is what is used: source archive, wheel, a clean environment, the command."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest

import kproxy
from tests.e2e.rig import daemon, manifests, sockets

pytestmark = pytest.mark.extra

ROOT = Path(__file__).parents[2]
NAME = "kproxy_userspace"
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints, which must succeed; it sees neither this folder nor this package."""
    done = subprocess.run(
        command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stderr or done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel in it, and our dependencies beside it: no network."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    source = folder / f"{NAME}-{kproxy.__version__}"
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=source)
    (wheel,) = folder.glob("*.whl")
    home = folder / "venv"
    venv.create(home, symlinks=True, with_pip=False)
    python = home / "bin" / "python"
    install = ("install", "--no-index", "--no-deps", "--disable-pip-version-check", wheel)
    run(sys.executable, "-m", "pip", "--python", python, *install, cwd=folder)
    packages = Path(
        run(python, "-c", "import site; print(*site.getsitepackages())", cwd=folder).strip()
    )
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return home


def test_the_command_is_there_and_is_this_version(installed: Path, tmp_path: Path) -> None:
    assert kproxy.__version__ in run(installed / "bin" / "kproxy", "version", cwd=tmp_path)


def test_it_brings_its_own_package_its_types_and_its_licence(
    installed: Path, tmp_path: Path
) -> None:
    code = (
        "import kproxy, importlib.metadata as m; print(kproxy.__file__);"
        f"print(*(each for each in m.files({NAME!r})), sep='\\n')"
    )
    where, *files = run(installed / "bin" / "python", "-c", code, cwd=tmp_path).splitlines()

    assert Path(where).is_relative_to(installed)
    assert "kproxy/py.typed" in files
    assert [each for each in files if each.endswith("licenses/LICENSE")]
    shipped = {each for each in files if each.startswith("kproxy/") and each.endswith(".py")}
    assert shipped == {str(each.relative_to(ROOT)) for each in ROOT.glob("kproxy/**/*.py")}


def test_it_serves(installed: Path, tmp_path: Path) -> None:
    with sockets.namers((manifests.fresh_ip(127), "pod")) as (pod,):
        path = manifests.write(
            tmp_path / "web.yaml",
            manifests.service("web", manifests.fresh_ip(), manifests.PORT),
            manifests.endpoints("web", [pod.address]),
        )
        ready = tmp_path / "ready.json"
        flags = ("--allow-loopback-endpoints", "--ready-file", str(ready), "--control", "")
        quiet = ("--healthz-bind-address", "", "--metrics-bind-address", "")
        process = subprocess.Popen(
            [installed / "bin" / "kproxy", "run", "--manifests", path, *flags, *quiet],
            cwd=tmp_path,
            env=ENVIRONMENT,
            start_new_session=True,
        )
        try:
            daemon.wait_until(lambda: ready.exists() or process.poll() is not None, "it is ready")
            (frontend,) = json.loads(ready.read_text())["services"][0]["frontends"]
            assert sockets.ask((frontend["bound_address"], frontend["bound_port"])) == "pod"
            process.terminate()
            assert process.wait(daemon.DEADLINE) == 0
        finally:
            daemon.end(process)
