"""What code and tests cite exists: cases of faults.md, rows and decisions of behaviour.md."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAULTS = (ROOT / "docs" / "faults.md").read_text()
BEHAVIOUR = (ROOT / "docs" / "behaviour.md").read_text()

CASES = {
    line.split(" | ")[0].removeprefix("| "): line
    for line in FAULTS.splitlines()
    if re.match(r"\| [A-Z]\d\d \| P[0-2] \|", line)
}
ROW_LINES = {
    line.split()[1]: line
    for line in BEHAVIOUR.partition("### Rows")[2].splitlines()
    if re.match(r"\| \d+ \|", line)
}
ROWS = set(ROW_LINES)
ITEMS = set(re.findall(r"^\| 2\.(\d+) \|", BEHAVIOUR, re.MULTILINE))
DECISIONS = set(re.findall(r"^(\d)\. ", BEHAVIOUR.partition("### Decisions")[2], re.MULTILINE))

SOURCES = [
    *ROOT.glob("kproxy/**/*.py"),
    *(each for each in ROOT.glob("tests/**/*.py") if each != Path(__file__)),
]

LETTERS = "".join(sorted({each[0] for each in CASES}))


def cited_cases(text: str) -> set[str]:
    """The ids in docstrings and comments (D05), and in names of tests (test_k22_…)."""
    plain = re.findall(rf"\b([{LETTERS}]\d\d)\b", text)
    named = re.findall(rf"_([{LETTERS.lower()}]\d\d)_", text)
    return {*plain, *(each.upper() for each in named)}


def cited(word: str, text: str) -> set[str]:
    """The numbers behind `word`, as in "rows 7 and 8"."""
    lists = re.findall(rf"\b{word}s? (\d+(?:(?:, | and | to )\d+)*)", text)
    return {number for each in lists for number in re.findall(r"\d+", each)}


def cited_rows(text: str) -> set[str]:
    """Rows in docstrings and comments ("rows 14 to 16 and 39"), and in names (test_row_12_…)."""
    found: set[str] = set()
    lists = re.findall(r"\brows? (\d+(?:(?:, | and | to )\d+)*)", text)
    names = re.findall(r"_rows?_((?:\d+_(?:and_|to_)?)+)", text)
    for each in (*lists, *(name.replace("_", " ") for name in names)):
        for first, last in re.findall(r"(\d+)(?: to (\d+))?", each):
            found.update(map(str, range(int(first), int(last or first) + 1)))
    return found


def test_the_pages_are_read() -> None:
    assert len(CASES) > 150
    assert set(map(str, range(1, 55))) == ROWS
    assert set("123456789") == DECISIONS


@pytest.mark.parametrize("folder", ["kproxy", "tests"])
def test_every_case_that_is_cited_is_in_the_catalogue(folder: str) -> None:
    unknown = {
        f"{each.relative_to(ROOT)}: {case}"
        for each in SOURCES
        if each.is_relative_to(ROOT / folder)
        for case in cited_cases(each.read_text()) - CASES.keys()
    }

    assert unknown == set()


def test_every_row_and_decision_that_is_cited_is_in_the_page() -> None:
    for each in ROOT.glob("kproxy/**/*.py"):
        text = each.read_text()
        if "behaviour.md" in text:
            assert cited("row", text) <= ROWS, each
            assert cited("decision", text) <= DECISIONS, each
            assert cited("section 2, item", text) <= ITEMS, each


def named_tests(line: str) -> list[str]:
    """The tests that a line of a table names. Asserts that it names some or says why none."""
    named = re.findall(r"\]\(\.\./(tests/[\w/]+\.py)\)", line)
    assert bool(named) is not bool(re.search(r"\| not covered: \w[^|]+ \|$", line))
    return named


@pytest.mark.parametrize("case", CASES)
def test_a_case_names_tests_that_cite_it_or_the_reason_why_none_does(case: str) -> None:
    for each in named_tests(CASES[case]):
        assert case in cited_cases((ROOT / each).read_text()), each


@pytest.mark.parametrize("row", ROW_LINES)
def test_a_row_names_tests_that_cite_it_or_the_reason_why_none_does(row: str) -> None:
    for each in named_tests(ROW_LINES[row]):
        assert row in cited_rows((ROOT / each).read_text()), each
