"""The program nginx: where it is, and whether it accepts a configuration."""

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from kproxy import errors

TEST_SECONDS = 30.0
"""After this long a test of a configuration has failed."""

_KEPT = ("PATH", "TZ", "LANG", "OPENSSL_CONF", "LD_LIBRARY_PATH")
_MOST_WORDS = 300
_MOST_OUTPUT = 64 * 1024
_VERSION = re.compile(rb"nginx/(\d{1,5}(?:\.\d{1,5}){1,3})")
_OF_A_RELATIVE = re.compile(rb"version: \S+/\d")
"""As nginx says it, and what was made of it: OpenResty, Tengine, freenginx, Angie."""

_LINE = re.compile(r"(?:nginx: |\d{4}/\d\d/\d\d \S+ )\[(?P<level>[a-z]+)\] (?:\d+#\d+: )?")


def find(given: Path | None) -> Path:
    """The program: the one that is given, or nginx where programs are. Raises ConfigError."""
    if given is not None:
        found = shutil.which(given)
        if found is None:
            raise errors.ConfigError(f"--nginx {given}: there is no program that can be run")
        return Path(found).absolute()
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/sbin")
    if found is None:
        raise errors.ConfigError(
            "--ingress needs nginx, which is not installed: install the package nginx, for "
            "instance by apt install nginx, or name the program with --nginx"
        )
    return Path(found).absolute()


def environment(inherited: Mapping[str, str], descriptors: tuple[int, ...] = ()) -> dict[str, str]:
    """What nginx is started with: no secrets of this process, and the sockets that it inherits.

    nginx takes them by the variable with which it hands them to its own successor.
    """
    kept = {name: inherited[name] for name in _KEPT if name in inherited}
    sockets = "".join(f"{each};" for each in descriptors)
    return {**kept, "NGINX": sockets} if sockets else kept


async def version(program: Path) -> tuple[int, ...]:
    """Its version, such as (1, 22, 1); () for a relative of nginx that does not say nginx's.

    Raises ConfigError for a program that is none of these.
    """
    try:
        _, said = await _run(program, "-v")
    except OSError as error:
        raise errors.ConfigError(
            f"{program} cannot be started: {errors.reason(error)}; name an nginx with --nginx"
        ) from error
    except TimeoutError:
        said = b""
    if not _OF_A_RELATIVE.search(said):
        raise errors.ConfigError(
            f"{program} is no nginx: asked for its version ({program.name} -v), it does not say "
            "one; name an nginx with --nginx"
        )
    found = _VERSION.search(said)
    return tuple(map(int, found[1].split(b"."))) if found else ()


async def refusal(program: Path, prefix: Path, configuration: Path) -> str:
    """Why nginx refuses a configuration, in its own words; "" if it accepts it.

    Raises OSError when the program cannot be started.
    """
    asked = ("-t", "-q", "-e", "stderr", "-p", prefix, "-c", configuration)
    try:
        code, said = await _run(program, *asked)
    except TimeoutError:
        return f"its test does not end within {TEST_SECONDS:g} s"
    if code == 0:
        return ""
    words = _in_words(said[:_MOST_OUTPUT].decode(errors="replace"), configuration.parent)
    return words or f"its test ends with status {code}"


async def _run(program: Path, *arguments: str | Path) -> tuple[int | None, bytes]:
    """The exit code of the program, and what it writes on standard error.

    Raises OSError when it cannot be started, and TimeoutError after TEST_SECONDS. However this
    ends, the process is gone then.
    """
    started = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environment(os.environ),
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(TEST_SECONDS):
            _, said = await started.communicate()
    finally:
        if started.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                started.kill()
            await started.wait()
    return started.returncode, said


def level_and_words(line: str) -> tuple[str, str]:
    """The level of a line that nginx has logged, and the rest of it without time and process."""
    found = _LINE.match(line)
    return (found["level"], line[found.end() :]) if found else ("error", line)


def _in_words(said: str, folder: Path) -> str:
    """The first complaint that made nginx refuse, as one line without the folder's name."""
    lines = [level_and_words(line) for line in said.splitlines() if line.strip()]
    fatal = [words for level, words in lines if level in ("emerg", "alert", "crit")]
    first = (fatal or [words for _, words in lines] or [""])[0]
    printable = "".join(each if each.isprintable() else "?" for each in first)
    return printable.replace(f"{folder}/", "")[:_MOST_WORDS]
