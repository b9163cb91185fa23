"""What the tests of dialling ask of clients."""

from tests.datapath.rig import harness
from tests.relay import actor


async def exchanges(bench: harness.Harness, client: actor.Actor, place: harness.Place) -> None:
    """Require that a byte goes from a client to a place."""
    await client.send(b"x")
    backend = await bench.accept(place)
    async with harness.within("a byte arrives"):
        assert await backend.receive_exactly(1) == b"x"


async def is_reset(client: actor.Actor, seconds: float = harness.PROMPT) -> None:
    """Require that a connected client is reset in time."""
    async with harness.within("the client is reset", seconds):
        assert await client.receive_to_end() is actor.End.RESET


async def is_turned_away(bench: harness.Harness, service: harness.Service) -> None:
    """Require a reset, which may come before connect has returned."""
    try:
        client = await bench.connect(service)
    except ConnectionResetError:
        return
    await is_reset(client)
