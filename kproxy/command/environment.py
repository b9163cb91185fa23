"""The variables by which a program finds Services, as Kubernetes gives them to the pods.

Source: `pkg/kubelet/envvars/envvars.go`. The values are where clients reach a Service through this
proxy, so an address, and now and then a port, is the portal's and not the Service's own. The names
carry the ports of the Service.
"""

from collections.abc import Iterable, Iterator

from kproxy.ops.views import reached


def of_services(services: Iterable[reached.Reached]) -> dict[str, str]:
    """The variables of some Services; one that is not served has none.

    Of two Services whose names give the same variable, the later one in the order of names wins.
    """
    variables: dict[str, str] = {}
    for each in sorted(services, key=lambda service: service.name):
        variables.update(_of_service(each))
    return variables


def _of_service(service: reached.Reached) -> Iterator[tuple[str, str]]:
    if not service.ports:
        return
    prefix = variable_name(service.name.name)
    first = service.ports[0]
    yield f"{prefix}_SERVICE_HOST", first.at[0].address
    yield f"{prefix}_SERVICE_PORT", str(first.at[0].port)
    for port in service.ports:
        if port.name:
            yield f"{prefix}_SERVICE_PORT_{variable_name(port.name)}", str(port.at[0].port)
    yield f"{prefix}_PORT", _url(first)
    for port in service.ports:
        place, link = port.at[0], f"{prefix}_PORT_{port.port}_{port.protocol}"
        yield link, _url(port)
        yield f"{link}_PROTO", port.protocol.lower()
        yield f"{link}_PORT", str(place.port)
        yield f"{link}_ADDR", place.address


def variable_name(name: str) -> str:
    """The name of a Service or port as a part of a variable's name: `foo-bar` is `FOO_BAR`."""
    return name.replace("-", "_").upper()


def _url(port: reached.ReachedPort) -> str:
    return f"{port.protocol.lower()}://{port.at[0]}"
