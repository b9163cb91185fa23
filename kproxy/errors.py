"""The failures kproxy expects, each with a sentence fit for a user.

Every message says what is wrong, where, and what to do about it. The command line prints the
sentence and exits with the class's code; no traceback reaches a user.
"""


class KproxyError(Exception):
    """Base of every expected failure. `exit_code` is what the process ends with."""

    exit_code = 1


class ConfigError(KproxyError):
    """A flag, a configuration value or a named file is unusable. Nothing was started."""

    exit_code = 2


class InvalidObjectError(KproxyError):
    """One Kubernetes object breaks a rule of its API type; the others are unaffected."""


class PortalUnavailableError(KproxyError):
    """A virtual address cannot be made connectable: the portal has no place for it."""


class PortalRefusedError(KproxyError):
    """A virtual address is not served because serving it could take traffic from someone else."""


class NotServedError(KproxyError):
    """A running proxy serves no Service of the name that was asked for."""


def in_one_line(error: BaseException) -> str:
    """What somebody else's exception says, for a sentence of ours: a line, 200 letters at most."""
    return " ".join(str(error).split())[:200] or type(error).__name__
