"""kube-proxy's own flags on the command line of `kproxy run`.

A manifest or a unit file that was written for kube-proxy starts kproxy unchanged where that makes
sense. Flags that mean the same here are kproxy's own (--kubeconfig, --hostname-override, the bind
addresses). The rest is here: some are translated, some mean nothing here and are ignored with one
sentence, and some ask for what kproxy cannot do, which is an error.

Source: `kube-proxy --help` of 1.20, of 1.34, and klog's flags.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import kproxy
from kproxy import errors
from kproxy.cli.parse import go_flags

_NO_NETFILTER = "kproxy uses neither netfilter nor IPVS"
_STDERR = "the log goes to stderr, redirect it to where it should be"
_API = "kproxy chooses this itself"
_WINDOWS = "it is for kube-proxy on Windows"


@dataclass(frozen=True, slots=True)
class _Ignored:
    """An ignored flag, and why it is ignored. A switch has no value behind a blank."""

    why: str
    is_switch: bool = False


_IGNORED: dict[str, _Ignored] = {
    "bind-address": _Ignored("every Service is served at the address that the portal gives it"),
    "bind-address-hard-fail": _Ignored("the flags of each server say what is required", True),  # noqa: FBT003
    "cleanup-ipvs": _Ignored(_NO_NETFILTER, is_switch=True),
    "config-sync-period": _Ignored("changes are watched for"),
    "detect-local-mode": _Ignored("connections of all clients are treated alike"),
    "feature-gates": _Ignored("kproxy has no feature gates"),
    "kube-api-burst": _Ignored(_API),
    "kube-api-content-type": _Ignored(_API),
    "kube-api-qps": _Ignored(_API),
    "masquerade-all": _Ignored(_NO_NETFILTER, is_switch=True),
    "pod-bridge-interface": _Ignored("connections of all clients are treated alike"),
    "pod-interface-name-prefix": _Ignored("connections of all clients are treated alike"),
    "profiling": _Ignored("kproxy has no profiling page", is_switch=True),
    "proxy-port-range": _Ignored("kproxy listens on the ports of the Services themselves"),
    "show-hidden-metrics-for-version": _Ignored("kproxy hides no metrics"),
    "azure-container-registry-config": _Ignored("kproxy pulls no images"),
    "boot-id-file": _Ignored("kproxy does not need it"),
    "machine-id-file": _Ignored("kproxy does not need it"),
    # klog
    "add-dir-header": _Ignored(_STDERR, is_switch=True),
    "alsologtostderr": _Ignored(_STDERR, is_switch=True),
    "log-backtrace-at": _Ignored(_STDERR),
    "log-dir": _Ignored(_STDERR),
    "log-file": _Ignored(_STDERR),
    "log-file-max-size": _Ignored(_STDERR),
    "log-flush-frequency": _Ignored("each line is written at once"),
    "log-json-info-buffer-size": _Ignored("each line is written at once"),
    "log-json-split-stream": _Ignored(_STDERR, is_switch=True),
    "log-text-info-buffer-size": _Ignored("each line is written at once"),
    "log-text-split-stream": _Ignored(_STDERR, is_switch=True),
    "logtostderr": _Ignored(_STDERR, is_switch=True),
    "one-output": _Ignored(_STDERR, is_switch=True),
    "skip-headers": _Ignored(_STDERR, is_switch=True),
    "skip-log-headers": _Ignored(_STDERR, is_switch=True),
    "stderrthreshold": _Ignored(_STDERR),
    "vmodule": _Ignored("--log-level sets the level of all lines"),
    # Windows
    "enable-dsr": _Ignored(_WINDOWS, is_switch=True),
    "forward-healthcheck-vip": _Ignored(_WINDOWS, is_switch=True),
    "network-name": _Ignored(_WINDOWS),
    "root-hnsendpoint-name": _Ignored(_WINDOWS),
    "source-vip": _Ignored(_WINDOWS),
    "windows-service": _Ignored(_WINDOWS, is_switch=True),
    "windows-priorityclass": _Ignored(_WINDOWS),
}
_IGNORED_FAMILIES = ("conntrack-", "iptables-", "ipvs-", "nftables-")
_FAMILY_SWITCHES = ("conntrack-tcp-be-liberal", "ipvs-strict-arp", "iptables-localhost-nodeports")

_REFUSED = {
    "master": "is not supported: write the server's address into a kubeconfig, and name that "
    "with --kubeconfig",
    "config": "is not supported: give options, or environment variables such as "
    "KPROXY_IDLE_TIMEOUT; see kproxy config reference",
    "write-config-to": "is not supported: kproxy config show prints the configuration",
}
_MODES_SERVED = ("", "userspace")
_DEBUG_VERBOSITY = 4
"""The klog level from which on lines are for debugging (Kubernetes' logging conventions)."""


@dataclass(frozen=True, slots=True)
class Translated:
    """What is left for kproxy's own command line, and a sentence for each ignored flag.

    With an `ending` nothing is run: print it, and exit with code 0.
    """

    arguments: list[str]
    notes: list[str]
    ending: str | None = None


def translate(arguments: Sequence[str], takes_value: Callable[[str], bool | None]) -> Translated:
    """Read kube-proxy's flags out of the arguments of `kproxy run`.

    `takes_value` says whether a value follows a flag of kproxy's own; None for any other flag.
    Raises ConfigError for a flag that asks for what kproxy cannot do.
    """
    left: list[str] = []
    notes: dict[str, str] = {}
    ending: str | None = None
    words = deque(arguments)
    while words and words[0] != "--":
        word = words.popleft()
        flag, equals, text = word.partition("=")
        value = text if equals else None
        name = flag.removeprefix("--").replace("_", "-") if flag.startswith("--") else ""
        if _is_v(flag):
            left += _verbose(flag, value, words)
        elif (needs_value := takes_value(flag)) is not None:
            left += _own(word, words) if needs_value else _switch(flag, value)
        elif name in _ENDINGS:
            ending = ending if value in go_flags.FALSE else _ENDINGS[name]
        elif name in _REFUSED:
            raise errors.ConfigError(f"--{name} {_REFUSED[name]}")
        elif name in _TRANSLATED:
            left += _TRANSLATED[name](_value(value, words))
        elif ignored := _ignored(name):
            if not ignored.is_switch:
                _value(value, words)
            notes[name] = f"--{name} is ignored: {ignored.why}"
        else:
            left.append(word)
    return Translated([*left, *words], list(notes.values()), ending)


_ENDINGS = {
    "version": f"kproxy {kproxy.__version__}",
    "init-only": "nothing to prepare: kproxy run needs no step as root before it",
}


def _value(value: str | None, words: deque[str]) -> str:
    """The text behind the equals sign, or else the next argument."""
    if value is not None:
        return value
    return words.popleft() if words else ""


def _own(word: str, words: deque[str]) -> list[str]:
    """A flag of kproxy's own with its value, which may look like a flag."""
    return [word] if "=" in word or not words else [word, words.popleft()]


def _switch(flag: str, value: str | None) -> list[str]:
    """A switch of kproxy's own; as Go's it may have a value: `--switch=false`."""
    if value is None or go_flags.truth(flag, value):
        return [flag]
    return ["--no-" + flag.removeprefix("--")]


def _ignored(name: str) -> _Ignored | None:
    if name in _IGNORED:
        return _IGNORED[name]
    if name.startswith(_IGNORED_FAMILIES):
        return _Ignored(_NO_NETFILTER, is_switch=name in _FAMILY_SWITCHES)
    return None


def _is_v(flag: str) -> bool:
    """Whether this is klog's -v, which has a level; kproxy's own -v has none."""
    return flag in ("--v", "-v") or (flag.startswith("-v") and flag[2:].isdecimal())


def _verbose(flag: str, value: str | None, words: deque[str]) -> list[str]:
    """`--v=4`, `--v 4`, `-v=4`, `-v 4` and `-v4` are klog's; `-v` alone is kproxy's own."""
    level = value if value is not None else flag.lstrip("-v")
    if not level and value is None and (flag == "--v" or (words and words[0].isdecimal())):
        level = _value(None, words)
    elif flag == "-v" and value is None:
        return ["--verbose"]
    if not (level.isdecimal() and level.isascii()):
        raise errors.ConfigError(f"--v {level}: must be a whole number, for instance --v=4")
    # Nine digits are beyond every level; Python refuses to read more than 4,300.
    return ["--verbose"] if int(level[:9]) >= _DEBUG_VERBOSITY else []


def _mode(value: str) -> list[str]:
    if value not in _MODES_SERVED:
        raise errors.ConfigError(
            f"--proxy-mode {value}: kproxy has the mode userspace only; for another one, run "
            "kube-proxy itself"
        )
    return []


def _logging_format(value: str) -> list[str]:
    return ["--log-format", value]


def _healthz_port(value: str) -> list[str]:
    return ["--healthz-bind-address", "" if value == "0" else f"0.0.0.0:{value}"]


def _metrics_port(value: str) -> list[str]:
    return ["--metrics-bind-address", "" if value == "0" else f"127.0.0.1:{value}"]


_TRANSLATED: dict[str, Callable[[str], list[str]]] = {
    "proxy-mode": _mode,
    "logging-format": _logging_format,
    "healthz-port": _healthz_port,
    "metrics-port": _metrics_port,
}
