"""The failures kproxy expects, each with a sentence fit for a user.

Every message says what is wrong, where, and what to do about it. The command line prints the
sentence and exits with the class's code; no traceback reaches a user.
"""

import errno
import os


class KproxyError(Exception):
    """Base of every expected failure. `exit_code` is what the process ends with."""

    exit_code = 1


class ConfigError(KproxyError):
    """A flag, a configuration value or a named file is unusable. Nothing was started."""

    exit_code = 2


class PortalUnavailableError(KproxyError):
    """A virtual address cannot be made connectable: the portal has no place for it."""


class PortalRefusedError(KproxyError):
    """A virtual address is not served because it could take traffic from its rightful server."""


class NotServedError(KproxyError):
    """A running proxy serves no Service of the name that was asked for."""


class CommandNotFoundError(KproxyError):
    """The command that is to run beside the proxy does not exist. Nothing was started."""

    exit_code = 127


class CommandNotExecutableError(KproxyError):
    """The command that is to run beside the proxy cannot be executed. Nothing was started."""

    exit_code = 126


def first_expected(error: Exception) -> Exception:
    """The failure inside the groups that tasks wrap it in: a KproxyError if there is one."""
    if not isinstance(error, ExceptionGroup):
        return error
    first: Exception = (error.subgroup(KproxyError) or error).exceptions[0]
    return first_expected(first)


def printable(text: str) -> str:
    """`text` in one line, without anything that would drive a terminal.

    Names, paths and answers come from elsewhere. A byte of a file name that is not UTF-8 can be
    printed too then.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def in_one_line(error: BaseException) -> str:
    """The text of a library's exception for a message: one line, 200 letters at most."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def advice_on_url(path: object) -> str:
    """What to do about a path of manifests that is a URL, which kubectl would read; else ""."""
    is_url = str(path).startswith(("http:/", "https:/"))  # a Path joins the two slashes
    return "URLs are not read: pipe curl into it, with -f -" if is_url else ""


def reason(error: OSError) -> str:
    """Why the system refused, in a few words for a message: "permission denied".

    asyncio and `socket.create_server` repeat the address in the text of an error; the words are
    then those of its number.
    """
    text = error.strerror or str(error)
    if error.errno and "while attempting to bind" in text:
        text = os.strerror(error.errno)
    return text.lower()


_OUT_OF = {
    errno.ENOMEM: "memory is used up: give this process more (ulimit -v, the container's limit)",
    errno.EMFILE: "open files are used up: raise the limit (ulimit -n)",
    errno.ENFILE: "the system's open files are used up (fs.file-max): close some programs",
    errno.ENOSPC: "the disk is full: make room on it",
    errno.EDQUOT: "this user's disk quota is used up: make room",
    errno.EROFS: "the file system is read-only: name a path on another one",
    errno.EIO: "a device or terminal failed to read or write",
}


def shortage(error: BaseException) -> str:
    """The sentence for an exception that says what the system is short of; "" for others."""
    if isinstance(error, MemoryError):
        return _OUT_OF[errno.ENOMEM]
    if isinstance(error, OSError) and error.errno in _OUT_OF:
        where = f" ({error.filename})" if error.filename else ""
        return f"{_OUT_OF[error.errno]}{where}"
    text = str(error)
    if isinstance(error, RuntimeError) and "start new thread" in text:
        return "no thread can be started: raise the limits of memory or processes (ulimit -v, -u)"
    is_unloadable = "failed to map segment" in text or "cannot allocate memory" in text.lower()
    if isinstance(error, ImportError) and is_unloadable:
        return _OUT_OF[errno.ENOMEM]
    return ""
