"""The log: a line for each frontend, unless there are too many for that."""

import structlog.testing

from kproxy.model import admission, forwarding, names
from kproxy.reconcile import report, statuses
from kproxy.sources import source
from tests.reconcile import builders

STATES = forwarding.FrontendState


class Frontends:
    """What is so of each service port, in the test's hands."""

    def __init__(self) -> None:
        self.now = 0.0
        self.statuses: dict[names.ServicePortName, list[statuses.FrontendStatus]] = {}
        self.reporter = report.Reporter(lambda name: self.statuses.get(name, []), lambda: self.now)

    def become(self, service: str, *states: forwarding.FrontendState) -> None:
        """Port 0, 1, 2, ... of a Service is in this state; then report."""
        changed = []
        for port, state in enumerate(states):
            name = builders.port_of(service, f"p{port}")
            frontend = forwarding.Frontend(forwarding.FrontendKind.CLUSTER_IP, "10.0.9.1", port)
            bound = forwarding.PortalAddress("127.0.9.1", port + 1)
            self.statuses[name] = [statuses.FrontendStatus(frontend, bound, state, "a detail")]
            changed.append(name)
        for _ in self.reporter.report(changed):
            pass


def lines(logs: list[dict[str, object]]) -> list[object]:
    return [line["event"] for line in logs]


def test_few_frontends_have_a_line_each() -> None:
    frontends = Frontends()
    with structlog.testing.capture_logs() as logs:
        frontends.become("web", STATES.BOUND, STATES.NO_ENDPOINTS)
        frontends.become("web", STATES.BOUND, STATES.BOUND)
        frontends.become("web", STATES.BOUND, STATES.BOUND)
    assert [(line["event"], line["state"]) for line in logs] == [
        ("frontend", "bound"),
        ("frontend", "no-endpoints"),
        ("frontend", "bound"),
    ]
    assert frontends.reporter.states[STATES.BOUND] == 2
    assert frontends.reporter.states[STATES.NO_ENDPOINTS] == 0


def test_listeners_hear_of_services_whose_frontends_are_in_another_state() -> None:
    frontends = Frontends()
    heard: list[str] = []
    frontends.reporter.subscribe(lambda service: heard.append(f"1 {service}"))
    frontends.reporter.subscribe(lambda service: heard.append(f"2 {service}"))
    frontends.become("web", STATES.BOUND)
    frontends.become("web", STATES.BOUND)
    frontends.become("web", STATES.COLLISION)

    assert heard == ["1 default/web", "2 default/web"] * 2


def test_many_frontends_of_a_service_are_counted_in_one_line() -> None:
    frontends = Frontends()
    with structlog.testing.capture_logs() as logs:
        frontends.become("web", *[STATES.BOUND] * 100)
        frontends.become("web", *[STATES.NO_ENDPOINTS] * 100)
    assert lines(logs) == ["frontends", "frontends"]  # type: ignore[arg-type]  # of more than str
    assert (logs[0]["bound"], logs[0]["closed"]) == (100, 0)
    assert (logs[1]["no_endpoints"], logs[1]["closed"]) == (100, 100)


def test_a_service_over_budget_has_one_line_when_that_begins_and_one_when_it_ends() -> None:
    frontends = Frontends()
    with structlog.testing.capture_logs() as logs:
        frontends.become("web", *[STATES.OVER_BUDGET] * 50)
        frontends.become("web", *[STATES.OVER_BUDGET] * 60)
        frontends.become("web", STATES.BOUND, *[STATES.OVER_BUDGET] * 59)
        frontends.become("web", *[STATES.BOUND] * 10, *[STATES.NO_ENDPOINTS] * 50)
    told = [line for line in logs if "budget" in str(line["event"])]
    assert [line["event"] for line in told] == [
        "over budget: not every frontend of this Service is served",
        "within the budget again",
    ]
    assert (told[0]["service"], told[0]["frontends"]) == ("default/web", 50)
    assert told[0]["detail"] == "a detail"
    assert frontends.reporter.shortages == 1


def test_many_services_over_budget_are_named_in_part_and_counted() -> None:
    frontends = Frontends()
    with structlog.testing.capture_logs() as logs:
        for number in range(report.LINES_A_MINUTE):
            frontends.become(f"s{number}", STATES.OVER_BUDGET)
        frontends.become("one-more", STATES.OVER_BUDGET)
        frontends.now = 61.0
        frontends.become("later", STATES.OVER_BUDGET)
    assert [line.get("service") for line in logs[-2:]] == [None, "default/later"]
    assert logs[-2]["services"] == 1
    assert len(logs) == report.LINES_A_MINUTE + 2


def test_a_problem_is_logged_at_the_level_of_its_severity() -> None:
    severities = (
        admission.Severity.ERROR,
        admission.Severity.WARNING,
        admission.Severity.NOTE,
    )
    with structlog.testing.capture_logs() as logs:
        for each in severities:
            report.log_problem(source.Problem(each, "web.yaml", "", "100% {odd}", "it is kept"))
    assert [line["log_level"] for line in logs] == ["error", "warning", "info"]
    assert [line["event"] for line in logs] == ["web.yaml: 100% {odd}; it is kept"] * 3
