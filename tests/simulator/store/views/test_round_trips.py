"""An object keeps its meaning on the way through an older version."""

from hypothesis import given, settings
from hypothesis import strategies as st

from kproxy.simulator.store import api_versions, resources
from kproxy.simulator.store.storage import Object

NAMES = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)
PORTS = st.one_of(
    st.builds(lambda name: {"name": name}, NAMES),
    st.builds(lambda number: {"number": number}, st.integers(1, 65535)),
)
SERVICES = st.builds(lambda name, port: {"service": {"name": name, "port": port}}, NAMES, PORTS)
OTHERS = st.builds(lambda name: {"resource": {"kind": "Bucket", "name": name}}, NAMES)
BACKENDS = st.one_of(SERVICES, OTHERS)
PATHS = st.builds(
    lambda backend, kind: {"path": "/a", "pathType": kind, "backend": backend},
    BACKENDS,
    st.sampled_from(["Exact", "Prefix", "ImplementationSpecific"]),
)
RULES = st.builds(
    lambda host, paths: {"host": host, "http": {"paths": paths}},
    NAMES,
    st.lists(PATHS, min_size=1, max_size=3),
)
SPECS = st.fixed_dictionaries(
    {"rules": st.lists(RULES, max_size=3)},
    optional={"defaultBackend": BACKENDS, "tls": st.just([{}]), "ingressClassName": NAMES},
)


@settings(max_examples=20)
@given(SPECS)
def test_an_ingress(spec: Object) -> None:
    stored = {"apiVersion": "networking.k8s.io/v1", "metadata": {"name": "a"}, "spec": spec}
    for served in (api_versions.INGRESSES_V1BETA1, api_versions.INGRESSES_EXTENSIONS):
        shown = api_versions.to_served(served, stored)
        assert api_versions.to_stored(served, shown) == stored


ENDPOINTS = st.fixed_dictionaries(
    {"addresses": st.lists(NAMES, max_size=2)},
    optional={
        "nodeName": NAMES,
        "zone": NAMES,
        "deprecatedTopology": st.dictionaries(NAMES, NAMES, min_size=1, max_size=2),
    },
)


@settings(max_examples=20)
@given(st.lists(ENDPOINTS, max_size=3))
def test_an_endpoint_slice(endpoints: list[Object]) -> None:
    version = resources.ENDPOINT_SLICES.api_version
    stored = {"apiVersion": version, "metadata": {"name": "a"}, "endpoints": endpoints}
    served = api_versions.ENDPOINT_SLICES_V1BETA1
    assert api_versions.to_stored(served, api_versions.to_served(served, stored)) == stored
