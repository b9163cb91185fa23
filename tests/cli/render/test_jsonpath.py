"""JSONPath templates, side by side with kubectl's own evaluator: same data, same bytes."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from kproxy.cli.render import jsonpath
from tests import kubectl

ROWS: list[dict[str, Any]] = [
    {
        "name": "web",
        "port": 8080,
        "ratio": 1.5,
        "ready": True,
        "nothing": None,
        "labels": {"app.kubernetes.io/name": "shop", "tier": "front"},
        "endpoints": [
            {"address": "10.1.0.1", "port": 80, "zone": "a"},
            {"address": "10.1.0.2", "port": 81, "zone": "b"},
            {"address": "10.1.0.3", "port": 82},
        ],
    },
    {"name": "api <&>", "port": 9090, "ratio": 2.0, "ready": False, "endpoints": []},
    {"name": "ünï", "port": -1, "ready": True, "labels": {"tier": "back"}},
]
THING = {
    "apiVersion": "kproxy.io/v1",
    "kind": "Thing",
    "metadata": {"name": "x", "annotations": {"note": "y"}},
    "rows": ROWS,
}

TEMPLATES = [
    "plain text",
    "{.rows[*].name}",
    "{ .rows[*].name }",
    "{$.rows[*].name}",
    "{.rows..address}",
    "{..zone}",
    "{.rows[0].name}:{.rows[0].port}",
    "{.rows[-1].name}",
    "{.rows[-2:].name}",
    "{.rows[0:2].name}",
    "{.rows[:1].name}",
    "{.rows[1:].name}",
    "{.rows[::2].name}",
    "{.rows[0:3:2].port}",
    "{.rows[0:0].name}",
    "{.rows[0,2].name}",
    "{.rows[0]['name','port']}",
    "{.rows[0].labels.app\\.kubernetes\\.io/name}",
    "{.rows[0].labels['app\\.kubernetes\\.io/name']}",
    "{.rows[0]['labels'].tier}",
    "{.rows[0].endpoints}",
    "{.rows[0].endpoints[0]}",
    "{.rows[1]}",
    "{.rows[1].endpoints}",
    "{.rows[1].endpoints[*].address}",
    "{.rows[*].ready}",
    "{.rows[*].ratio}",
    "{.rows[0].nothing}",
    "{.rows[0].nothing.deeper}",
    "{.missing}",
    "{.missing[0].deeper}",
    "a{.missing}b",
    "{.rows[?(@.name=='web')].port}",
    '{.rows[?(@.name=="web")].port}',
    '{.rows[?(@.name!="web")].name}',
    "{.rows[?(@.port>8080)].name}",
    "{.rows[?(@.port>=8080)].name}",
    "{.rows[?(@.port<9000)].name}",
    "{.rows[?(@.port<=-1)].name}",
    "{.rows[?(@.ready==true)].name}",
    "{.rows[?(@.ready!=true)].name}",
    "{.rows[?(@.labels)].name}",
    "{.rows[?(@.labels.tier)].labels.tier}",
    "{.rows[?(@.labels.tier=='back')].name}",
    "{.rows[?(@.ratio==1.5)].name}",
    "{.rows[*].endpoints[?(@.zone=='b')].address}",
    '{range .rows[*]}{.name}{"\\t"}{.port}{"\\n"}{end}',
    "{range .rows[*]}[{.name}] {end}after",
    '{range .rows[*]}{.name}{range .endpoints[*]} {.address}{end}{"\\n"}{end}',
    "{range .rows[*].endpoints[*]}{.address},{end}",
    "{range .rows[1].endpoints[*]}{.address}{end}none",
    "{range .missing[*]}{.x}{end}none",
    "{range .rows[*]}{.name}",
    "{range .rows[*]}{@.name}{'\\n'}{end}",
    '{range .rows[?(@.ready==true)]}{.name}{"\\n"}{end}',
    "{\"double\"} {'single'}",
    "{'it\\'s'}",
    '{"a\\tb\\\\c\\x41\\u00e9\\101"}',
    '{"a{b}c"}',
    "{.rows[0].labels.*}",
    "{.rows[2].labels.*}",
    "{.rows[0].endpoints.*.port}",
    "{1}",
    "{true}",
    "{-3}{1.5}",
    "{.rows[0].name .port}",
    "{.rows[0].name.deeper}",
    "{.metadata}",
    "}",
    "a } b",
]

WRONG = [
    "{.rows[?(@.endpoints[0].zone=='a')].name}",
    "{",
    "{.rows",
    "{.rows[}",
    "{.rows[0}",
    "{.rows[x]}",
    '{.rows["name"]}',
    "{.rows[9].name}",
    "{.rows[-9].name}",
    "{.rows[0:9].name}",
    "{.rows[2:1].name}",
    "{.rows[0:2:0].name}",
    "{.rows[0].name[0]}",
    "{.rows[?(@.name==80)]}",
    "{.rows[?(@.port=='80')]}",
    "{.rows[?(@.port==1.5)]}",
    "{.rows[?(@.ready<true)]}",
    "{.rows[?(@.name=~'w.*')]}",
    "{.rows[?(@.name=='web' && @.port==8080)]}",
    "{.rows[?(@.name=='web')}",
    "{.rows[?(@.name=='web']}",
    "{.rows[0].name[?(@.x)]}",
    "{end}",
    "{foo}",
    "{%}",
    "{'open}",
    "{'\\q'}",
    "{1.2.3}",
    "{.rows....name}",
    "{.rows\n}",
]


UNORDERED = frozenset({"{.rows[0].labels.*}"})
"""All values of an object: kubectl gives them in the order of a Go map, another one each time."""


RECORDED = Path(__file__).parents[2] / "fixtures" / "jsonpath-of-kubectl.json"
"""What kubectl makes of each template, None where it refuses it: an object of `TEMPLATES` and
`WRONG`. `python -m tests.cli.render.test_jsonpath` records it."""


@pytest.fixture(scope="module")
def recorded() -> dict[str, str | None]:
    read: dict[str, str | None] = json.loads(RECORDED.read_text())
    return read


@pytest.fixture(scope="module")
def thing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("jsonpath") / "thing.json"
    path.write_text(json.dumps(THING))
    return path


def by_kubectl(thing: Path, template: str) -> str | None:
    """What the newest kubectl makes of it, without any cluster; None if it refuses it."""
    newest = kubectl.newest()
    # The annotation has this value already, so the object stays as it is.
    arguments = ["annotate", "--local", "--overwrite", "-f", str(thing), "note=y"]
    program = kubectl.Kubectl(newest, thing.parent)
    done = program.run(*arguments, "-o", f"jsonpath={template}")
    return done.stdout if done.returncode == 0 else None


def in_order(template: str, made: str | None) -> object:
    """What is made of a template, in an order that is always the same."""
    return sorted(made.split()) if template in UNORDERED and made is not None else made


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_gives_what_kubectl_gives(
    recorded: dict[str, str | None], template: str
) -> None:
    made = jsonpath.Template(template).render(THING)

    assert in_order(template, made) == in_order(template, recorded[template])


@pytest.mark.parametrize("template", WRONG)
def test_a_template_that_kubectl_refuses_is_refused(
    recorded: dict[str, str | None], template: str
) -> None:
    assert recorded[template] is None
    with pytest.raises(jsonpath.TemplateError):
        jsonpath.Template(template).render(THING)


@pytest.mark.parametrize(
    "template",
    [
        pytest.param(each, marks=[] if each in (TEMPLATES[1], WRONG[1]) else [pytest.mark.extra])
        for each in [*TEMPLATES, *WRONG]
    ],
)
def test_the_record_is_what_kubectl_does(
    thing: Path, recorded: dict[str, str | None], template: str
) -> None:
    made = by_kubectl(thing, template)

    assert in_order(template, made) == in_order(template, recorded[template])


def test_an_empty_template_gives_nothing() -> None:
    assert jsonpath.Template("").render(THING) == ""


@pytest.mark.parametrize("depth", [10, pytest.param(100_000, marks=pytest.mark.extra)])
def test_a_long_template_is_no_deep_one(depth: int) -> None:
    assert jsonpath.Template("{.a}" * depth).render({"a": 1}) == "1" * depth
    nested = jsonpath.Template("{" + ".a" * depth + "}")
    assert nested.render({"a": {}}) == ""


def record(folder: Path) -> None:
    """Ask this machine's newest kubectl, and keep its answers."""
    thing = folder / "thing.json"
    thing.write_text(json.dumps(THING))
    answers = {template: by_kubectl(thing, template) for template in [*TEMPLATES, *WRONG]}
    RECORDED.write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        record(Path(directory))
