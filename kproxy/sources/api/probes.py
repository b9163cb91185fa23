"""Probes: a short watch beside one on which nothing comes.

A kernel acknowledges for a process that hangs, and what is between us and a server may keep a
connection open whose other half is gone. So while a watch is quiet, another one is asked for from
the same version, for a second. It finds a server that does not answer, and a watch that does not
bring what another one brings, whatever the reason. client-go has HTTP/2 pings after 30 s, which
find the first alone.

To the server it is the beginning of a watch: a look into its cache, and no event while nothing
changes. The server ends it in good order, so that its connection serves the next one.
"""

import asyncio
from collections.abc import Mapping
from enum import Enum, auto

import msgspec

from kproxy.sources.api import client
from kproxy.sources.api.decisions import progress, queries, versions
from kproxy.sources.transfer import framing, wire

QUIET_SECONDS = 3.0
"""After so long without a word on a watch it is probed.

With a probe that itself falls deaf, and the next one's time, a deaf watch is found within 5 s.
"""

ANSWER_SECONDS = 4.0
"""Within which a probe must be answered."""

LATER_SECONDS = 0.2
"""What a probe brought may come on the watch this much later; after that the watch is deaf."""

LIFE_CHECK_SECONDS = 2.5
"""Deadline for one sign of life of a server that did not answer."""

AGAIN_SECONDS = (1.0, 2.0)
"""A server that gave no sign of life is asked again after a random time in this range."""

LIFE_SECONDS = 300.0
"""How long signs of life are waited for until a request is made without one."""


class Finding(Enum):
    """What a probe found."""

    NOTHING = auto()
    """The server answers, and has nothing that is newer."""
    NEWS = auto()
    """There is an event that is newer than the version asked for."""
    EXPIRED = auto()
    """The server no longer knows what came after that version."""
    SILENCE = auto()
    """There was no answer."""


async def probe(api: client.Client, path: str, query: Mapping[str, str], version: str) -> Finding:
    """Watch for a moment from `version`. Any answer that brings no news is NOTHING: it is a sign
    of life, whatever its status."""
    is_answered = False
    try:
        async with asyncio.timeout(ANSWER_SECONDS) as deadline:
            async with api.get(progress.Mode.WATCH, path, query) as answer:
                is_answered = True
                now = asyncio.get_running_loop().time()
                deadline.reschedule(now + queries.PROBE_SECONDS + 0.5)
                return await _first_finding(answer, version)
    except client.RequestError as error:
        if error.outcome is progress.Outcome.EXPIRED:
            return Finding.EXPIRED
        return Finding.SILENCE if error.outcome in client.DEAF else Finding.NOTHING
    except TimeoutError:
        return Finding.NOTHING if is_answered else Finding.SILENCE
    except (framing.FramingError, msgspec.DecodeError):
        return Finding.NOTHING


async def _first_finding(answer: client.Response, version: str) -> Finding:
    framer = framing.LineFramer()
    while chunk := await answer.read(ANSWER_SECONDS):
        for line in framer.feed(chunk):
            event = wire.event(line)
            if event.type == "ERROR":
                status = wire.status(event.object)
                if status is not None:
                    raise client.refused(progress.Mode.WATCH, status)
            elif event.type != "BOOKMARK":
                identity = wire.identity(event.object)
                if identity is not None and versions.is_behind(version, identity.version):
                    return Finding.NEWS
    return Finding.NOTHING
