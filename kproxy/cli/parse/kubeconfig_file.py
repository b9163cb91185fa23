"""The kubeconfig that `kproxy simulate` writes: for its user alone, and removed at the end."""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from kproxy import errors
from kproxy.simulator import admin_kubeconfig
from kproxy.system import files


class KubeconfigFile:
    """A kubeconfig on disk. `written` makes and removes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text = ""

    def write(self, content: Mapping[str, Any]) -> None:
        """Write the file whole and at once, mode 0600. Raises ConfigError."""
        text = yaml.safe_dump(dict(content), sort_keys=False)
        try:
            files.replace(self.path, text.encode(), mode=files.PRIVATE)
        except OSError as error:
            reason = errors.reason(error)
            raise errors.ConfigError(
                f"--kubeconfig-out {self.path}: {reason}; name a path that can be written"
            ) from error
        self._text = text

    def remove(self) -> None:
        """Remove the file, unless its content has changed since."""
        with contextlib.suppress(OSError, ValueError):
            if self.path.read_text() == self._text:
                self.path.unlink()


@contextlib.contextmanager
def written(content: Mapping[str, Any], out: Path | None) -> Iterator[KubeconfigFile]:
    """The kubeconfig in a file, until the end; `out` None: in a temporary folder.

    Raises ConfigError if the file cannot be written, or would replace a kubeconfig of the user's.
    """
    with contextlib.ExitStack() as stack:
        if out is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="kproxy-simulate-"))
            out = Path(folder) / "kubeconfig"
        else:
            check(out)
            out = out.absolute()
        file = KubeconfigFile(out)
        stack.callback(file.remove)
        file.write(content)
        yield file


def check(path: Path) -> None:
    """Raise ConfigError if a kubeconfig cannot be written there, before a cluster is started.

    A file that is there must be the kubeconfig of an earlier run.
    """
    path = path.absolute()
    folder = path.parent
    if not folder.is_dir():
        raise errors.ConfigError(
            f"--kubeconfig-out {path}: no such file or directory: {folder}; make that folder"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise errors.ConfigError(
            f"--kubeconfig-out {path}: {folder} cannot be written; name a path that can be written"
        )
    if not os.path.lexists(path):
        return
    if stat.S_ISREG(path.lstat().st_mode):
        with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
            known = yaml.safe_load(path.read_text())
            if isinstance(known, dict) and known.get("current-context") == admin_kubeconfig.NAME:
                return
    raise errors.ConfigError(
        f"--kubeconfig-out {path}: something is there that is not a simulated cluster's, name "
        "another path"
    )
