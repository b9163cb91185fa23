"""What `kproxy explain` asks of a running proxy: the evidence about a Service, and the objects."""

import contextlib
from collections.abc import AsyncGenerator, Iterable, Iterator

from kproxy import turns
from kproxy.explain import evidence, gather
from kproxy.model import addresses, names, steps
from kproxy.ops.serving import answers, heads
from kproxy.ops.views import json_pieces, observed
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
        known = await self._shared.result(
            gather.gather_in_steps(
                asked,
                seen.source.store,
                seen.proxier,
                according_to=f"the running proxy, which follows {seen.source.describe()}",
                live=seen.plane,
                problems=seen.source.problems(),
            )
        )
        return answers.Answer(200, self._body(json_pieces.of_object(known)))

    async def objects(self, request: heads.Request) -> answers.Answer:
        """The Services, each with its endpoint objects: `?namespace=` and `?name=` narrow it."""
        query = request.query
        chosen = self._chosen(query.get("namespace", ""), query.get("name", ""))
        return answers.Answer(200, self._body(chosen), answers.JSON_LINES)

    def _chosen(self, namespace: str, name: str) -> Iterator[bytes | None]:
        """The lines, in pieces; None is a step without one."""
        held = self._seen.source.store
        wanted: list[names.NamespacedName] = []
        for run in steps.runs(held.service_names()):
            wanted += (
                each
                for each in run
                if namespace in ("", each.namespace) and name in ("", each.name)
            )
            yield None
        for each in (yield from steps.sorted_in_steps(wanted, tuple)):
            if (service := held.service(each)) is not None:  # it may be gone since
                yield from json_pieces.of_object((service, held.sources(each)))
                yield b"\n"

    def _body(self, pieces: Iterable[bytes | None]) -> answers.Body:
        return _joined(self._shared.batches(pieces))


async def _joined(batches: AsyncGenerator[list[bytes | None], None]) -> answers.Body:
    async with contextlib.aclosing(batches):
        async for batch in batches:
            if text := b"".join(filter(None, batch)):
                yield text
