"""The report as a page: what it says, and how a browser takes it."""

import asyncio
import base64
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kproxy import errors
from kproxy.bench.report import html_page, readings, results
from tests.bench import chromium, reports

pytestmark = pytest.mark.xdist_group("charts")
"""Matplotlib takes a second to import: in one process."""

CHARTS = """[...document.querySelectorAll("figure svg")].map(svg => {
  const box = svg.getBoundingClientRect();
  const shapes = [...svg.querySelectorAll("path, use")].filter(shape => {
    const {width, height} = shape.getBoundingClientRect();
    return width + height > 0 && getComputedStyle(shape).fill + getComputedStyle(shape).stroke
      !== "nonenone";
  });
  return {width: box.width, height: box.height, shapes: shapes.length};
})"""

COLLISIONS = """[...document.querySelectorAll("figure svg")].flatMap(svg => {
  const words = [...svg.querySelectorAll("text")].map(each =>
    ({text: each.textContent, box: each.getBoundingClientRect()}));
  return words.flatMap((one, index) => words.slice(index + 1).filter(other =>
    one.box.left < other.box.right && other.box.left < one.box.right &&
    one.box.top + 3 < other.box.bottom && other.box.top + 3 < one.box.bottom
  ).map(other => one.text + " / " + other.text));
})"""

COLOURS = """(() => {
  const colours = getComputedStyle(document.querySelector("figure svg text"));
  return {paper: getComputedStyle(document.body).backgroundColor, words: colours.fill};
})()"""


@pytest.fixture(scope="module")
def charts() -> Any:
    """The module, imported by the first test that needs it."""
    return importlib.import_module("kproxy.bench.report.charts")


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)", as the Web Content Accessibility Guidelines count."""
    linear = []
    for channel in re.findall(r"\d+", colour)[:3]:
        share = int(channel) / 255
        linear.append(share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4)
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """From 1 to 21; small text is to have 4.5."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def written(tmp_path: Path, report: results.Report) -> str:
    path = tmp_path / "report.html"
    html_page.write_html(report, path)
    return path.as_uri()


async def test_a_browser_draws_every_chart_and_makes_no_request(tmp_path: Path) -> None:
    address = written(tmp_path, reports.report(noise=0.1))

    async with chromium.page(tmp_path) as page:
        await page.open(address)
        drawn = await page.evaluate(CHARTS)
        requests = [each for each in page.requests if not each.startswith("data:")]

        assert len(drawn) == 5
        for chart in drawn:
            assert chart["width"] > 300
            assert chart["height"] > 100
            assert chart["shapes"] > 6
        assert await page.evaluate(COLLISIONS) == []
        assert (requests, page.errors) == ([address], [])


OUTSIDE = """[...document.querySelectorAll("figure svg")].flatMap(svg => {
  const frame = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter(each => {
    const box = each.getBoundingClientRect();
    return box.left < frame.left - 1 || box.right > frame.right + 1;
  }).map(each => each.textContent);
})"""

SMALLEST = """Math.min(...[...document.querySelectorAll("figure svg text")].map(each => {
  const svg = each.ownerSVGElement;
  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  return parseFloat(getComputedStyle(each).fontSize) * scale;
}))"""


async def test_long_names_stay_inside_and_words_can_be_read(tmp_path: Path) -> None:
    """As the strategies' chart, whose subjects are called kproxy-random and the like."""
    figure = reports.figure(
        **{
            "kproxy": (100.0, 105.0),
            "kproxy-random": (99.0, 98.0),
            "haproxy-checks": (12345.0, 10000.0),
        }
    )
    address = written(tmp_path, reports.with_figure(reports.report(), figure))

    async with chromium.page(tmp_path) as page:
        for each in (address, written(tmp_path, reports.report())):
            await page.open(each)
            assert await page.evaluate(OUTSIDE) == []
            assert await page.evaluate(COLLISIONS) == []
            assert await page.evaluate(SMALLEST) >= 9.5


def test_a_chart_says_which_way_is_better_and_where_its_axes_are_logarithmic() -> None:
    page = html_page.page(reports.report())

    assert "connections/s, higher is better" in page
    assert "µs, lower is better, both axes logarithmic" in page
    assert "Services, logarithmic" in page


@pytest.mark.parametrize(
    ("rounds", "words"),
    [
        pytest.param({"kproxy": (719.0, 719.0)}, "<b>719 connections/s</b> kproxy", id="one"),
        pytest.param(
            {"kproxy": (0.0, 0.0), "haproxy": (0.0,)},
            "<b>0 connections/s</b> kproxy and haproxy",
            id="all-zero",
        ),
    ],
)
def test_what_compares_nothing_is_said_in_words(
    rounds: dict[str, tuple[float, ...]], words: str
) -> None:
    page = html_page.page(reports.with_figure(reports.report(), reports.figure(**rounds)))

    assert words in page
    assert "<svg" not in page


def test_a_ratio_comes_with_its_interval() -> None:
    figure = reports.figure(kproxy=(90.0, 100.0, 110.0), haproxy=(100.0, 100.0, 100.0))
    page = html_page.page(reports.with_figure(reports.report(), figure))

    assert "<td>1.00</td><td>0.78 to 1.28</td>" in page
    assert "1.00 ±0.25" in page


async def test_the_page_is_readable_in_light_in_dark_and_on_paper(tmp_path: Path) -> None:
    address = written(tmp_path, reports.report())

    async with chromium.page(tmp_path) as page:
        await page.open(address)
        light = await page.evaluate(COLOURS)
        await page.media("dark")
        dark = await page.evaluate(COLOURS)
        await page.media("dark", medium="print")
        paper = await page.evaluate(COLOURS)

    for seen in (light, dark, paper):
        assert contrast(seen["paper"], seen["words"]) > 4.5
    assert luminance(light["paper"]) > 0.9
    assert luminance(dark["paper"]) < 0.1
    assert paper["paper"] == "rgb(255, 255, 255)"


async def test_it_fits_a_telephone(tmp_path: Path) -> None:
    address = written(tmp_path, reports.report())

    async with chromium.page(tmp_path) as page:
        await page.open(address)
        await page.call(
            "Emulation.setDeviceMetricsOverride",
            width=390,
            height=800,
            deviceScaleFactor=1,
            mobile=True,
        )
        while await page.evaluate("innerWidth") > 390:  # noqa: ASYNC110  # the browser's affair
            await asyncio.sleep(0.02)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390


async def test_the_browser_would_have_reported_an_error(tmp_path: Path) -> None:
    """That a request and an error are seen at all, or the tests above could not fail."""
    path = tmp_path / "bad.html"
    path.write_text('<img src="missing.png"><script>console.error("look here")</script>')

    async with chromium.page(tmp_path) as page:
        await page.open(path.as_uri())
        await page.evaluate("1")

    assert (tmp_path / "missing.png").as_uri() in page.requests
    assert any("look here" in each for each in page.errors)


def test_the_numbers_the_machine_and_the_command_are_in_the_page() -> None:
    page = html_page.page(reports.report())

    assert "kproxy bench --quick --peers haproxy,nginx,socat" in page
    assert "AMD EPYC 9R14, 2 cores" in page
    assert "HAProxy version 2.6.12" in page
    assert page.count("<table>") == page.count("<svg ") == 5
    assert page.index("Short connections: kproxy reaches") < page.index("<svg")


def test_every_chart_is_named_and_described() -> None:
    page = html_page.page(reports.report())

    named = re.findall(r'role="img" aria-labelledby="(\S+) (\S+)"', page)
    assert len(named) == 5
    for title, words in named:
        assert f'<title id="{title}">' in page
        assert f'<desc id="{words}">' in page
    assert "the best first: no proxy 2" in page


def test_no_id_is_used_twice() -> None:
    ids = re.findall(r'\bid="([^"]+)"', html_page.page(reports.report()))

    assert ids
    assert len(ids) == len(set(ids))


def test_the_raw_report_can_be_taken_out_again() -> None:
    report = reports.report()

    [raw] = re.findall(r'href="data:application/json;base64,([^"]+)"', html_page.page(report))

    assert results.decode(base64.b64decode(raw), "page") == report


def test_names_cannot_break_the_page() -> None:
    hostile = "<script>$x$ & co</script>"
    figure = results.Figure(
        "rate", hostile, hostile, "higher", (results.Series(hostile, (1.0, 2.0)),)
    )
    report = msgspec.structs.replace(
        reports.with_figure(reports.report(), figure), warnings=(hostile,), command=(hostile,)
    )

    page = html_page.page(report)

    assert "<script" not in page
    assert "&lt;script&gt;$x$ &amp; co&lt;/script&gt;" in page


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(results.Scenario("a", "nothing"), id="nothing-measured"),
        pytest.param(
            results.Scenario("a", "a", (reports.figure(kproxy=(None,), haproxy=()),)),
            id="a-figure-of-no-subject",
        ),
        pytest.param(results.Scenario("a", "a", (reports.figure(kproxy=(0.0,)),)), id="zero"),
        pytest.param(
            results.Scenario(
                "a", "a", (), (results.Distribution("d", "d", "s", (results.Quantiles("x", ()),)),)
            ),
            id="an-empty-distribution",
        ),
        pytest.param(
            results.Scenario(
                "a",
                "a",
                curves=(
                    results.Curve(
                        "c",
                        "c",
                        "x",
                        "s",
                        "lower",
                        (
                            results.CurveSeries("kproxy", (results.Point(1.0, (None,)),)),
                            results.CurveSeries("haproxy", ()),
                            results.CurveSeries("nginx", (results.Point(1.0, (0.0, 1.0)),)),
                        ),
                    ),
                ),
            ),
            id="a-curve-with-gaps",
        ),
    ],
)
def test_what_an_interrupted_run_leaves_is_still_a_page(scenario: results.Scenario) -> None:
    report = msgspec.structs.replace(reports.report(), scenarios=(scenario,), interrupted=True)

    assert "The run was interrupted" in html_page.page(report)


def test_without_matplotlib_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    path = tmp_path / "report.html"

    with pytest.raises(errors.ConfigError, match=r"run pip install matplotlib$"):
        html_page.require_charts()
    with pytest.raises(errors.ConfigError, match="matplotlib"):
        html_page.write_html(reports.report(), path)
    assert not path.exists()


def test_a_chart_has_no_colour_of_its_own(charts: Any) -> None:
    scenario = reports.report().scenarios[0]
    whole = readings.wholes(scenario)[1]

    drawn = charts.bars(whole, readings.parts(scenario, whole.name))

    assert "var(--ours)" in drawn
    assert "var(--ours-soft)" in drawn
    assert re.findall(r"#[0-9a-f]{6}\b", drawn) == []


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        pytest.param([10.0, 50.0], [10.0, 50.0], id="far-enough"),
        pytest.param([50.0, 10.0], [50.0, 10.0], id="in-any-order"),
        pytest.param([50.0, 52.0], [42.0, 52.0], id="the-lower-gives-way"),
        pytest.param([1.0, 2.0], [0.0, 10.0], id="not-below-the-floor"),
        pytest.param([120.0], [100.0], id="not-above-the-top"),
        pytest.param([5.0] * 12, [10.0 * n for n in range(12)], id="more-than-fit"),
    ],
)
def test_labels_keep_their_distance(
    charts: Any, places: list[float], expected: list[float]
) -> None:
    assert charts.apart(places, 10.0, 0.0, 100.0) == expected
