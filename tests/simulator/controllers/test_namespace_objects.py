"""What every namespace of a cluster has."""

from typing import Any

import pytest

from kproxy.simulator.store import resources
from tests.simulator import simulated
from tests.simulator.simulated import Simulated

NAMES = [
    (resources.SERVICE_ACCOUNTS, "default"),
    (resources.CONFIG_MAPS, "kube-root-ca.crt"),
]


@pytest.mark.parametrize(("resource", "name"), NAMES, ids=["serviceaccount", "root"])
def test_it_is_made_made_again_and_goes_with_its_namespace(resource: Any, name: str) -> None:
    async def main(running: Simulated) -> None:
        objects = running.registry
        objects.create(resources.NAMESPACES, {"metadata": {"name": "shop"}})
        await running.settle()
        for namespace in ("default", "kube-system", "shop"):
            objects.get(resource, name, namespace)
        objects.delete(resource, name, "shop")
        await running.settle()
        objects.get(resource, name, "shop")
        objects.delete(resources.NAMESPACES, "shop")
        await running.settle(1)
        assert objects.find(resources.NAMESPACES, "shop") is None
        assert objects.find(resource, name, "shop") is None

    simulated.run(main)


def test_the_root_certificate_is_that_of_the_authority_and_mended() -> None:
    async def main(running: Simulated) -> None:
        await running.settle()
        _, name = NAMES[1]
        stored = running.registry.get(resources.CONFIG_MAPS, name, "default")
        assert stored["data"] == {"ca.crt": running.authority.pem.decode()}
        running.patch(resources.CONFIG_MAPS, name, {"data": {"ca.crt": "mine"}})
        await running.settle()
        mended = running.registry.get(resources.CONFIG_MAPS, name, "default")
        assert mended["data"] == stored["data"]

    simulated.run(main)
