"""What `kproxy explain` asks of a running proxy: the evidence about a Service, and the objects."""

from collections.abc import AsyncGenerator, Iterator

import msgspec

from kproxy import turns
from kproxy.explain import evidence, gather
from kproxy.model import addresses, names
from kproxy.ops.serving import answers, heads
from kproxy.ops.views import observed
from kproxy.plane import plane


class Explaining:
    """Answers `/v1/evidence` and `/v1/objects` for one proxy."""

    def __init__(self, seen: observed.Observed, shared: turns.Turns) -> None:
        self._seen = seen
        self._shared = shared

    async def evidence(self, request: heads.Request) -> answers.Answer:
        """What is known about a Service: `?namespace=`, `?name=`, `?port=`, `?from=`, `?to=`."""
        query = request.query
        asked = evidence.Question(
            names.NamespacedName(query.get("namespace", ""), query.get("name", "")),
            query.get("port", ""),
            query.get("from", ""),
            addresses.parse_socket_address(query.get("to", "")),
        )
        seen = self._seen
        await seen.plane.refresh(plane.Part.PORTS | plane.Part.AFFINITY, self._shared)
        known = gather.gather(
            asked,
            seen.source.store,
            seen.proxier,
            told_by=f"the running proxy, which follows {seen.source.describe()}",
            live=seen.plane,
        )
        return answers.Answer(200, evidence.encode(known))

    async def objects(self, request: heads.Request) -> answers.Answer:
        """The Services, each with its endpoint objects: `?namespace=` and `?name=` narrow it."""
        query = request.query
        chosen = self._chosen(query.get("namespace", ""), query.get("name", ""))
        return answers.Answer(200, _lines(self._shared.batches(chosen)), answers.JSON_LINES)

    def _chosen(self, namespace: str, name: str) -> Iterator[bytes]:
        held = self._seen.source.store
        for each in sorted(held.service_names()):
            if namespace in ("", each.namespace) and name in ("", each.name):
                yield msgspec.json.encode((held.service(each), held.sources(each)))


async def _lines(batches: AsyncGenerator[list[bytes], None]) -> answers.Body:
    async for batch in batches:
        yield b"".join(line + b"\n" for line in batch)
