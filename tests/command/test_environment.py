"""The variables of Services, against the table of Kubernetes' own test.

The rows are those of TestFromServices in `pkg/kubelet/envvars/envvars_test.go`.
"""

from kproxy.command import environment
from kproxy.model import addresses, names
from kproxy.ops.views import reached

TCP, UDP = names.Protocol.TCP, names.Protocol.UDP


def service(
    name: str, address: str, *ports: tuple[str, int, names.Protocol], bound: int = 0
) -> reached.Reached:
    """A Service that is served at `address`, on its own ports or on port `bound`."""
    return reached.Reached(
        names.NamespacedName("default", name),
        tuple(
            reached.ReachedPort(
                each, protocol, port, (addresses.SocketAddress(address, bound or port),)
            )
            for each, port, protocol in ports
        ),
    )


def test_the_rows_of_kubernetes() -> None:
    made = environment.of_services(
        [
            service("foo-bar", "1.2.3.4", ("", 8080, TCP)),
            service("abc-123", "5.6.7.8", ("u-d-p", 8081, UDP), ("t-c-p", 8081, TCP)),
            service("q-u-u-x", "9.8.7.6", ("", 8082, TCP), ("8083", 8083, TCP)),
            service("svrc-clusterip-none", ""),
            service("super-ipv6", "2001:DB8::", ("u-d-p", 8084, UDP), ("t-c-p", 8084, TCP)),
        ]
    )

    assert made == {
        "FOO_BAR_SERVICE_HOST": "1.2.3.4",
        "FOO_BAR_SERVICE_PORT": "8080",
        "FOO_BAR_PORT": "tcp://1.2.3.4:8080",
        "FOO_BAR_PORT_8080_TCP": "tcp://1.2.3.4:8080",
        "FOO_BAR_PORT_8080_TCP_PROTO": "tcp",
        "FOO_BAR_PORT_8080_TCP_PORT": "8080",
        "FOO_BAR_PORT_8080_TCP_ADDR": "1.2.3.4",
        "ABC_123_SERVICE_HOST": "5.6.7.8",
        "ABC_123_SERVICE_PORT": "8081",
        "ABC_123_SERVICE_PORT_U_D_P": "8081",
        "ABC_123_SERVICE_PORT_T_C_P": "8081",
        "ABC_123_PORT": "udp://5.6.7.8:8081",
        "ABC_123_PORT_8081_UDP": "udp://5.6.7.8:8081",
        "ABC_123_PORT_8081_UDP_PROTO": "udp",
        "ABC_123_PORT_8081_UDP_PORT": "8081",
        "ABC_123_PORT_8081_UDP_ADDR": "5.6.7.8",
        "ABC_123_PORT_8081_TCP": "tcp://5.6.7.8:8081",
        "ABC_123_PORT_8081_TCP_PROTO": "tcp",
        "ABC_123_PORT_8081_TCP_PORT": "8081",
        "ABC_123_PORT_8081_TCP_ADDR": "5.6.7.8",
        "Q_U_U_X_SERVICE_HOST": "9.8.7.6",
        "Q_U_U_X_SERVICE_PORT": "8082",
        "Q_U_U_X_SERVICE_PORT_8083": "8083",
        "Q_U_U_X_PORT": "tcp://9.8.7.6:8082",
        "Q_U_U_X_PORT_8082_TCP": "tcp://9.8.7.6:8082",
        "Q_U_U_X_PORT_8082_TCP_PROTO": "tcp",
        "Q_U_U_X_PORT_8082_TCP_PORT": "8082",
        "Q_U_U_X_PORT_8082_TCP_ADDR": "9.8.7.6",
        "Q_U_U_X_PORT_8083_TCP": "tcp://9.8.7.6:8083",
        "Q_U_U_X_PORT_8083_TCP_PROTO": "tcp",
        "Q_U_U_X_PORT_8083_TCP_PORT": "8083",
        "Q_U_U_X_PORT_8083_TCP_ADDR": "9.8.7.6",
        "SUPER_IPV6_SERVICE_HOST": "2001:DB8::",
        "SUPER_IPV6_SERVICE_PORT": "8084",
        "SUPER_IPV6_SERVICE_PORT_U_D_P": "8084",
        "SUPER_IPV6_SERVICE_PORT_T_C_P": "8084",
        "SUPER_IPV6_PORT": "udp://[2001:DB8::]:8084",
        "SUPER_IPV6_PORT_8084_UDP": "udp://[2001:DB8::]:8084",
        "SUPER_IPV6_PORT_8084_UDP_PROTO": "udp",
        "SUPER_IPV6_PORT_8084_UDP_PORT": "8084",
        "SUPER_IPV6_PORT_8084_UDP_ADDR": "2001:DB8::",
        "SUPER_IPV6_PORT_8084_TCP": "tcp://[2001:DB8::]:8084",
        "SUPER_IPV6_PORT_8084_TCP_PROTO": "tcp",
        "SUPER_IPV6_PORT_8084_TCP_PORT": "8084",
        "SUPER_IPV6_PORT_8084_TCP_ADDR": "2001:DB8::",
    }


def test_a_moved_port_is_in_the_values_and_not_in_the_names() -> None:
    made = environment.of_services([service("web", "127.0.1.1", ("http", 80, TCP), bound=10080)])

    assert made == {
        "WEB_SERVICE_HOST": "127.0.1.1",
        "WEB_SERVICE_PORT": "10080",
        "WEB_SERVICE_PORT_HTTP": "10080",
        "WEB_PORT": "tcp://127.0.1.1:10080",
        "WEB_PORT_80_TCP": "tcp://127.0.1.1:10080",
        "WEB_PORT_80_TCP_PROTO": "tcp",
        "WEB_PORT_80_TCP_PORT": "10080",
        "WEB_PORT_80_TCP_ADDR": "127.0.1.1",
    }
