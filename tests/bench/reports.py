"""A report like a real one, with figures made up from a fixed seed."""

import functools
import random

import msgspec

from kproxy.bench.report import arithmetic, results

SUBJECTS = ("direct", "kproxy", "haproxy", "nginx", "socat", "uvloop", "asyncio")

_RATES = (21_800, 13_900, 14_300, 14_100, 2_400, 7_900, 5_900)
_REQUESTS = (141_000, 70_900, 69_200, 65_200, 31_000, 63_500, 56_500)
_USER = (9.0, 9.2, 5.1, 5.4, 80.0, 41.0, 88.0)
_SYSTEM = (31.0, 58.3, 57.9, 60.2, 310.0, 84.0, 81.0)
_MEDIAN_LATENCY = (60, 118, 112, 115, 190, 132, 171)

MACHINE = results.Machine(
    kernel="Linux 6.18.1 x86_64",
    cpu="AMD EPYC 9R14",
    cores=2,
    memory=8 << 30,
    python="CPython 3.11.2",
    versions={"kproxy": "0.1.0", "haproxy": "HAProxy version 2.6.12", "nginx": "nginx/1.22.1"},
)


@functools.cache
def report(seed: int = 1, rounds: int = 5, noise: float = 0.04) -> results.Report:
    """Every kind of figure, distribution and curve, of seven subjects."""
    chance = random.Random(seed)

    def series(medians: tuple[float, ...]) -> tuple[results.Series, ...]:
        return tuple(
            results.Series(
                subject, tuple(round(chance.gauss(m, noise * m), 3) for _ in range(rounds))
            )
            for subject, m in zip(SUBJECTS, medians, strict=True)
        )

    def latency(median: float) -> tuple[tuple[float, float], ...]:
        values = [median * chance.lognormvariate(0, 0.35) for _ in range(10_000)]
        return tuple((q, round(v, 1)) for q, v in arithmetic.quantiles(values))

    connect = results.Scenario(
        name="connect",
        title="short connections",
        figures=(
            results.Figure(
                "rate", "connections per second", "connections/s", "higher", series(_RATES)
            ),
            results.Figure(
                "cpu_user", "user", "µs", "lower", series(_USER)[1:], "CPU time per connection"
            ),
            results.Figure(
                "cpu_system",
                "kernel",
                "µs",
                "lower",
                series(_SYSTEM)[1:],
                "CPU time per connection",
            ),
        ),
        notes=("64 at once; each sends one byte, and ends when it has the reply.",),
    )
    request = results.Scenario(
        name="request",
        title="requests on kept connections",
        figures=(
            results.Figure(
                "rate", "requests per second", "requests/s", "higher", series(_REQUESTS)
            ),
        ),
    )
    open_loop = results.Scenario(
        name="latency",
        title="latency at a fixed rate",
        distributions=(
            results.Distribution(
                "at_5000",
                "reply time at 5,000 requests/s",
                "µs",
                tuple(
                    results.Quantiles(subject, latency(median))
                    for subject, median in zip(SUBJECTS, _MEDIAN_LATENCY, strict=True)
                ),
            ),
        ),
    )
    services = results.Scenario(
        name="services",
        title="many Services",
        curves=(
            results.Curve(
                "startup",
                "start-up time",
                "Services",
                "s",
                "lower",
                tuple(
                    results.CurveSeries(
                        subject,
                        tuple(
                            results.Point(
                                x,
                                tuple(
                                    round(chance.gauss(1, noise) * (base + slope * x), 4)
                                    for _ in range(rounds)
                                ),
                            )
                            for x in (1, 10, 100, 1_000, 10_000)
                        ),
                    )
                    for subject, base, slope in (("kproxy", 0.3, 2e-4), ("haproxy", 0.05, 4e-4))
                ),
            ),
        ),
    )
    return results.Report(
        started="2026-11-21T10:00:00+00:00",
        seconds=88.4,
        command=("kproxy", "bench", "--quick", "--peers", "haproxy,nginx,socat"),
        machine=MACHINE,
        scenarios=(connect, request, open_loop, services),
    )


def with_figure(report: results.Report, figure: results.Figure) -> results.Report:
    """The report with `figure` as the only one of its only scenario."""
    scenario = results.Scenario("one", "one scenario", (figure,))
    return msgspec.structs.replace(report, scenarios=(scenario,))


def figure(**rounds: tuple[float | None, ...]) -> results.Figure:
    """A figure of which more is better, with these rounds by subject."""
    series = tuple(results.Series(subject, values) for subject, values in rounds.items())
    return results.Figure("rate", "connections per second", "connections/s", "higher", series)
