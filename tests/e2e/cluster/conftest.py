"""A simulated cluster with the proxy of one of its nodes, by each portal."""

import dataclasses
import itertools
from collections.abc import Iterator

import pytest

from kproxy.demo import stage
from tests.e2e.rig import namespaces, simulation
from tests.e2e.rig.simulation import Api, Simulation

NODE = "node-1"
"""The node whose proxy it is."""

_numbers = itertools.count(1)


@pytest.fixture(
    scope="package",
    params=[
        simulation.LOOPBACK,
        *(
            pytest.param(each, marks=[pytest.mark.extra, pytest.mark.netns, namespaces.needs_root])
            for each in (simulation.LOCAL, simulation.LOCAL_WITHOUT_BPF)
        ),
    ],
    ids=lambda portal: portal.name,
)
def beside(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Simulation]:
    """The cluster, and the proxy beside it, which serves Gateways too."""
    portal = dataclasses.replace(request.param, flags=(*request.param.flags, "--gateway"))
    folder = tmp_path_factory.mktemp("conformance")
    with (
        stage.claimed_ranges() as ranges,
        simulation.simulation(folder, ranges, NODE, portal) as made,
    ):
        yield made


@pytest.fixture
def api(beside: Simulation) -> Iterator[Api]:
    """A namespace of the test's own."""
    name = f"services-{next(_numbers)}"
    made = beside.api(name)
    made.create("Namespace", name, {})
    yield made
    made.delete("Namespace", name)
