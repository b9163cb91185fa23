"""Syntaxes of names, ports and keys, and what kube-apiserver says of a text that breaks one.

From apimachinery's `pkg/util/validation`. A format is called with a text and returns the sentences
about what is wrong with it, none if nothing is.
"""

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

Format: TypeAlias = Callable[[str], list[str]]

PORT_RULE = "must be between 1 and 65535, inclusive"
DNS_NAME_NOT_ADDRESS = "must be a DNS name, not an IP address"

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_HTTP_PATH = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+"


def _syntax(words: str, pattern: str, longest: int, examples: Sequence[str]) -> Format:
    compiled = re.compile(pattern)
    shown = "',  or '".join(examples)
    sentence = f"{words} (e.g. '{shown}', regex used for validation is '{pattern}')"

    def faults(text: str) -> list[str]:
        found = [] if len(text) <= longest else [f"must be no more than {longest} characters"]
        return found if compiled.fullmatch(text) else [*found, sentence]

    return faults


dns_1123_label = _syntax(
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and "
    "must start and end with an alphanumeric character",
    _LABEL,
    63,
    ("my-name", "123-abc"),
)
dns_1123_subdomain = _syntax(
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
    "'.', and must start and end with an alphanumeric character",
    _SUBDOMAIN,
    253,
    ("example.com",),
)
wildcard_subdomain = _syntax(
    "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, "
    "which must consist of lower case alphanumeric characters, '-' or '.' and end with an "
    "alphanumeric character",
    rf"\*\.{_SUBDOMAIN}",
    253,
    ("*.example.com",),
)
dns_1035_label = _syntax(
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an "
    "alphabetic character, and end with an alphanumeric character",
    "[a-z]([-a-z0-9]*[a-z0-9])?",
    63,
    ("my-name", "abc-123"),
)
_config_key = _syntax(
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
    r"[-._a-zA-Z0-9]+",
    253,
    ("key.name", "KEY_NAME", "key-name"),
)


def config_map_key(text: str) -> list[str]:
    """A key of a ConfigMap's or a Secret's data, which becomes the name of a file."""
    found = _config_key(text)
    if text in {".", ".."}:
        found.append(f"must not be '{text}'")
    elif text.startswith(".."):
        found.append("must not start with '..'")
    return found


def path_segment(text: str) -> list[str]:
    """A name that is a part of a URL's path."""
    if text in {".", ".."}:
        return [f"may not be '{text}'"]
    return [f"may not contain '{each}'" for each in "/%" if each in text]


def port_name(text: str) -> list[str]:
    """The name of a container's port: one of IANA's service names."""
    found = []
    if len(text) > 15:
        found.append("must be no more than 15 characters")
    if not re.fullmatch(r"[-a-z0-9]+", text):
        found.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search(r"[a-z]", text):
        found.append("must contain at least one letter (a-z)")
    if "--" in text:
        found.append("must not contain consecutive hyphens")
    if text.startswith("-") or text.endswith("-"):
        found.append("must not begin or end with a hyphen")
    return found


def http_path(text: str) -> list[str]:
    """The path of a URL (RFC 3986)."""
    if re.fullmatch(_HTTP_PATH, text):
        return []
    return [f"Invalid path (regex used for validation is '{_HTTP_PATH}')"]
