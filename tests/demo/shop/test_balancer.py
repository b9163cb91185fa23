"""The client's balancer: turns, health checks, and what a refused connection does."""

from kproxy.demo.shop import balancer

ONE, TWO = (balancer.Node(name, f"127.1.0.{name[-1]}", 8443) for name in ("node-1", "node-2"))


def test_nodes_take_turns() -> None:
    nodes = balancer.Balancer([ONE, TWO])

    assert [nodes.order() for _ in range(3)] == [[ONE, TWO], [TWO, ONE], [ONE, TWO]]


def test_a_node_is_out_after_two_failed_checks_and_back_after_a_good_one() -> None:
    nodes = balancer.Balancer([ONE, TWO])

    nodes.checked(ONE, is_well=False)
    assert nodes.is_healthy(ONE)
    nodes.checked(ONE, is_well=False)
    assert [nodes.order()[0] for _ in range(3)] == [TWO, TWO, TWO]
    nodes.checked(ONE, is_well=True)

    assert {nodes.order()[0] for _ in range(2)} == {ONE, TWO}


def test_a_node_that_refuses_is_out_at_once_and_still_the_last_resort() -> None:
    nodes = balancer.Balancer([ONE, TWO])

    nodes.refused(ONE)

    assert [nodes.order() for _ in range(2)] == [[TWO, ONE], [TWO, ONE]]


def test_a_request_is_repeated_through_the_other_node_and_then_through_the_first_again() -> None:
    attempts = balancer.Balancer([ONE, TWO]).attempts()

    assert [next(attempts) for _ in range(4)] == [ONE, TWO, ONE, TWO]


def test_a_request_is_not_repeated_through_a_node_that_has_gone_meanwhile() -> None:
    nodes = balancer.Balancer([ONE, TWO])
    attempts = nodes.attempts()

    assert next(attempts) == ONE
    nodes.broke_off(ONE)
    assert next(attempts) == TWO
    nodes.broke_off(ONE)
    assert [next(attempts) for _ in range(2)] == [TWO, TWO]
    nodes.checked(ONE, is_well=True)
    assert next(attempts) == ONE
