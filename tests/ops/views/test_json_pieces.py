"""JSON in pieces is the JSON of the whole."""

import copy
import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.model import addresses, names
from kproxy.model.kinds import endpoints
from kproxy.ops.views import json_pieces

VALUES = st.dictionaries(
    st.text(max_size=5),
    st.one_of(
        st.text(max_size=5),
        st.none(),
        st.dictionaries(st.text(max_size=3), st.integers()),
        st.integers(min_value=0, max_value=3 * json_pieces.RUN).map(lambda size: list(range(size))),
    ),
    max_size=4,
)


@given(VALUES)
def test_the_pieces_of_an_object_are_the_object(value: dict[str, Any]) -> None:
    assert json.loads(b"".join(json_pieces.encoded(value))) == value


@given(st.lists(st.one_of(st.none(), VALUES), max_size=5))
def test_a_list_has_every_value_and_an_empty_piece_for_each_pause(
    values: list[dict[str, Any] | None],
) -> None:
    expected = copy.deepcopy([value for value in values if value is not None])

    pieces = list(json_pieces.listed(values))

    assert json.loads(b"".join(pieces)) == expected
    assert pieces.count(b"") >= values.count(None)


def test_no_piece_has_more_than_a_run_of_a_list() -> None:
    items = [{"address": f"10.1.{number // 250}.{number % 250}"} for number in range(10_000)]

    pieces = list(json_pieces.encoded({"name": "web", "endpoints": items, "port": 80}))

    assert max(piece.count(b"address") for piece in pieces) == json_pieces.RUN
    assert json.loads(b"".join(pieces))["endpoints"] == items


def test_what_was_written_is_freed_in_steps() -> None:
    value: dict[str, Any] = {"name": "web", "endpoints": [{} for _ in range(10_000)]}

    lengths = [len(value["endpoints"]) for _ in json_pieces.freed(value)]

    assert lengths[-1] <= json_pieces.RUN
    assert all(before - after <= json_pieces.RUN for before, after in itertools.pairwise(lengths))


def slice_of(ports: int, backends: int) -> endpoints.EndpointsObject:
    """An object with endpoints."""
    found = tuple(
        endpoints.Endpoint(
            addresses.SocketAddress(f"10.1.{number // 250}.{number % 250}", 80), node="node-a"
        )
        for number in range(backends)
    )
    name = names.NamespacedName("default", "web")
    made = (endpoints.EndpointPort(f"p{n}", names.Protocol.TCP, found) for n in range(ports))
    return endpoints.EndpointsObject(name, name, "Endpoints", tuple(made))


@pytest.mark.parametrize(
    ("ports", "backends"), [(0, 0), (1, 0), (1, 1), (2, 2000), (1000, 3), (40, 40)]
)
def test_an_object_of_the_model_is_as_msgspec_encodes_it(ports: int, backends: int) -> None:
    value = ("web", None, (slice_of(ports, backends), slice_of(1, 1)), {"a": 1.5})

    pieces = list(json_pieces.of_object(value))

    assert b"".join(pieces) == msgspec.json.encode(value)
    assert max(piece.count(b"10.1.") for piece in pieces) <= 200
