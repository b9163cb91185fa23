"""The pages: every block of commands runs as pasted, or says why it is not run.

A block is fenced as `sh` (every line is a command), as `console` (commands are behind `$ `, what
they print is between them), or as something else, which holds no commands. Before a block that is
not run stands a comment, `<!-- not run: why -->`.
"""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.rig import daemon, programs

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "benchmarks/results/README.md"]

COMMANDS = {"cat", "curl", "export", "jq", "kproxy", "kubectl", "make", "pip", "python", "$"}
"""First words by which a block of commands is recognised, however it is fenced."""

SECONDS = 120.0
"""For a block; a bound, not an expectation."""

SECTIONS = ("kproxy", "tests", "docs", "benchmarks", "examples")
FILES = {
    str(each.relative_to(ROOT))
    for folder in SECTIONS
    for each in ROOT.glob(f"{folder}/**/*")
    if "__pycache__" not in each.parts
} | {each.name for each in ROOT.iterdir()}
MENTION = re.compile(r"(?<![\w/.:-])((?:[\w-]+/)*[\w-]+\.(?:py|md))\b(?![\w/])")
"""A file as prose names it: a path from the root, or its last parts."""


class Block(NamedTuple):
    """A fenced block: where it begins, how it is fenced, its text, and why it is not run."""

    page: str
    line: int
    info: str
    text: str
    reason: str | None

    @property
    def script(self) -> str:
        """Its commands."""
        if self.info != "console":
            return self.text
        marked = [line[2:] for line in self.text.splitlines() if line.startswith(("$ ", "> "))]
        return "\n".join(marked)


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    reason, start, info = None, 0, ""
    lines: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if start and line.strip() == "```":
            yield Block(str(page.relative_to(ROOT)), start, info, "\n".join(lines), reason)
            start, reason = 0, None
        elif start:
            lines.append(line)
        elif line.lstrip().startswith("```"):
            start, info, lines = number, line.strip().removeprefix("```"), []
        elif found := re.fullmatch(r"<!-- not run: (.+) -->", line):
            reason = found[1]
        elif line:
            reason = None


BLOCKS = [block for page in PAGES for block in blocks(page)]
RUN = [each for each in BLOCKS if each.info in {"sh", "console"} and each.reason is None]


def test_every_block_of_commands_is_fenced_as_one() -> None:
    """Otherwise it would not be run, and nothing would say so."""
    hidden = [
        f"{each.page}:{each.line}"
        for each in BLOCKS
        if each.info not in {"sh", "console", "text"}
        and COMMANDS & {line.split(" ")[0] for line in each.text.splitlines()}
    ]

    assert hidden == []


def test_a_reason_stands_before_a_block_of_commands_only() -> None:
    marked = [each for each in BLOCKS if each.reason is not None]
    written = sum(
        line.startswith("<!-- not run: ")
        for page in PAGES
        for line in page.read_text().splitlines()
    )

    assert len(marked) == written
    assert {each.info for each in marked} <= {"sh", "console"}
    assert len(RUN) >= 3


def mentioned(text: str) -> set[str]:
    """The Python files and pages that a page's prose names."""
    return set(MENTION.findall(text))


def test_mentions_are_found() -> None:
    text = "`kproxy/server.py`, (`heads.py`); [a](tour.md#the-picture) x.pyc https://a.b/c/d.md"

    assert mentioned(text) == {"kproxy/server.py", "heads.py", "tour.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    """A path from the root is one; anything shorter is the end of one."""
    prose = re.sub(r"\]\(\.\./", "](", page.read_text())
    unknown = {
        each
        for each in mentioned(prose)
        if each not in FILES
        and (each.split("/")[0] in SECTIONS or not any(f.endswith(f"/{each}") for f in FILES))
    }
    folders = set(re.findall(rf"`((?:{'|'.join(SECTIONS)})/[\w/]*/)`", prose))

    assert unknown == set()
    assert {each for each in folders if not (ROOT / each).is_dir()} == set()


def test_the_layers_of_the_picture_are_those_that_are_checked() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    (picture,) = re.findall(r"```text\n(cli → .*?)```", page, re.DOTALL)
    drawn = [layer.split("|") for layer in "".join(picture.split()).split("→")]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    checked = [layer.split("|") for layer in settings["contracts"][0]["layers"]]

    assert drawn == [[name.strip(" ()") for name in layer] for layer in checked]


def test_every_commit_that_a_page_names_exists() -> None:
    """`docs/adding.md` sends readers to commits, where the history is at hand."""
    named = set(re.findall(r"`([0-9a-f]{7})`", (ROOT / "docs/adding.md").read_text()))
    assert len(named) > 8
    whole = subprocess.run(
        ["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, capture_output=True, check=False
    )
    if whole.stdout != b"false\n":
        pytest.skip("no history here")
    known = subprocess.run(["git", "log", "--format=%H"], cwd=ROOT, capture_output=True, check=True)

    assert named <= {each[:7] for each in known.stdout.decode().split()}


@pytest.mark.extra
@pytest.mark.parametrize(
    "block", [pytest.param(each, id=f"{each.page}:{each.line}") for each in RUN]
)
def test_a_block_runs_as_pasted(block: Block, tmp_path: Path) -> None:
    for program in ("kubectl", "curl"):
        if program in block.script:
            programs.need(program)
    home = Path(sys.prefix)
    (tmp_path / ".venv").symlink_to(home)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "run").mkdir(mode=0o700)
    environment = os.environ | {
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    environment.pop("KUBECONFIG", None)
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["bash", "-e", "-u", "-o", "pipefail", "-c", block.script],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        code = process.wait(SECONDS)
    finally:
        daemon.kill_group(process)
        process.wait()

    assert code == 0, log.read_text()
