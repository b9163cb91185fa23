from benchmarks import comparison
from benchmarks.comparison import Figure, Ratios


def test_each_is_measured_in_each_round_and_the_order_turns_round() -> None:
    measured: list[str] = []

    def measure(name: str) -> Figure:
        measured.append(name)
        return Figure(float(len(measured)), 1.0)

    figures = comparison.in_turns(("nginx", "kproxy"), 3, measure)

    assert measured == ["kproxy", "nginx", "nginx", "kproxy", "kproxy", "nginx"]
    assert [each.rate for each in figures["kproxy"]] == [1.0, 4.0, 5.0]
    assert [each.rate for each in figures["nginx"]] == [2.0, 3.0, 6.0]


def test_ratios_are_those_of_the_same_round() -> None:
    ours = [Figure(10.0, 2.0), Figure(30.0, 1.0), Figure(8.0, 4.0)]
    theirs = [Figure(20.0, 1.0), Figure(10.0, 3.0), Figure(8.0, 1.0)]

    found = Ratios.of(ours, theirs)

    assert (found.rate, found.cost, found.spread) == (1.0, 0.5, "(0.50 to 3.00)")


def test_medians_are_of_rates_and_of_costs_by_themselves() -> None:
    found = [Figure(10.0, 2.0), Figure(30.0, 1.0), Figure(8.0, 4.0)]

    assert comparison.medians(found) == Figure(10.0, 2.0)
