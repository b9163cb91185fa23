"""The values of -o: how items are printed, all at once or, in a watch, one after the other."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from kproxy import errors
from kproxy.cli.parse import asked_resources
from kproxy.cli.parse.asked_resources import Kind, View
from kproxy.cli.render import jsonpath, tables

FORMATS = (
    "table, wide, json, yaml, name, jsonpath=TEMPLATE, jsonpath-file=PATH, "
    "custom-columns=HEADING:PATH,…, custom-columns-file=PATH"
)

FORMATS_OFFERED = (
    *("table", "wide", "json", "yaml", "name"),
    *("jsonpath=", "jsonpath-file=", "custom-columns=", "custom-columns-file="),
)
"""What a shell offers."""


class Found(NamedTuple):
    """Views of one resource."""

    kind: Kind
    views: Sequence[View]


class Changed(NamedTuple):
    """A view in a watch, and where that is asked for its change: ADDED, MODIFIED or DELETED."""

    view: View
    change: str = ""


class Printer(Protocol):
    """One way to print. What is printed ends with a line feed where kubectl ends it so."""

    def every(self, found: Sequence[Found]) -> str: ...

    def several(self, kind: Kind, changed: Sequence[Changed]) -> str:
        """The next items of a watch. Raises KproxyError for a template that does not fit."""
        ...


class Shape(NamedTuple):
    """What is asked of tables beside their format."""

    has_headings: bool = True
    has_namespace: bool = False
    has_labels: bool = False
    is_colourful: bool = False


def printer(text: str, shape: Shape) -> Printer:
    """The printer for a value of -o. Raises ConfigError."""
    name, equals, argument = text.partition("=")
    if name.lower() in _PLAIN:  # kubectl takes these in upper case too
        name = name.lower()
    if not equals and name in ("", "table", "wide"):
        return TablePrinter(shape, is_wide=name == "wide")
    if not equals and name in _PLAIN:
        return _PLAIN[name]()
    if name in ("jsonpath-file", "custom-columns-file"):
        argument = _contents(argument, name)
        if name == "custom-columns-file":
            argument = _spec(argument)
        name = name.removesuffix("-file")
    if name == "jsonpath":
        if not argument:
            raise errors.ConfigError("-o jsonpath= needs a template, such as {.items[*].name}")
        return TemplatePrinter(argument)
    if name == "custom-columns":
        return CustomPrinter(argument, shape)
    raise errors.ConfigError(f"-o {text} is no format: there are {FORMATS}")


DOCUMENT_FORMATS = "text, json, yaml, jsonpath=TEMPLATE, jsonpath-file=PATH"
DOCUMENT_FORMATS_OFFERED = ("text", "json", "yaml", "jsonpath=", "jsonpath-file=")


def document(text: str) -> Callable[[View], str] | None:
    """How a single object is printed for a value of -o; None for text. Raises ConfigError."""
    name = text.partition("=")[0].lower()
    if text in ("", "text"):
        return None
    if "=" not in text and name == "json":
        return _json
    if "=" not in text and name == "yaml":
        return _yaml
    if name in ("jsonpath", "jsonpath-file"):
        made = printer(text, Shape())
        assert isinstance(made, TemplatePrinter)
        return made.rendered
    raise errors.ConfigError(f"-o {text} is no format: there are {DOCUMENT_FORMATS}")


def _contents(path: str, name: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not readable as text"
        raise errors.ConfigError(f"-o {name}={path}: {reason}") from None


def _spec(text: str) -> str:
    """A line of headings and one of paths, as a value of custom-columns."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if len(lines) != 2 or len(lines[0]) != len(lines[1]):
        raise errors.ConfigError(
            "-o custom-columns-file: the file needs a line of headings and a line of as many paths"
        )
    return ",".join(f"{heading}:{where}" for heading, where in zip(*lines, strict=True))


class TablePrinter:
    """Tables. If there are several, names carry their resource: `service/web`."""

    def __init__(self, shape: Shape, *, is_wide: bool) -> None:
        self._shape = shape
        self.is_wide = is_wide
        self._watched: tables.Table | None = None

    def every(self, found: Sequence[Found]) -> str:
        """A table for each resource that has something to show, an empty line between them."""
        made = []
        for kind, views in found:
            table = self._table(kind, has_kind=len(found) > 1)
            if lines := table.lines(views):
                made.append("\n".join(lines) + "\n")
        return "\n".join(made)

    def several(self, kind: Kind, changed: Sequence[Changed]) -> str:
        """Rows, the first one below the headings."""
        if not changed:
            return ""
        if self._watched is None:
            has_changes = any(change for _, change in changed)
            self._watched = self._table(kind, has_kind=False, has_changes=has_changes)
        rows = [{**view, tables.CHANGE: change} for view, change in changed]
        return "".join(f"{line}\n" for line in self._watched.lines(rows))

    def _table(self, kind: Kind, *, has_kind: bool, has_changes: bool = False) -> tables.Table:
        columns = tables.columns(
            kind,
            is_wide=self.is_wide,
            has_namespace=self._shape.has_namespace,
            has_kind=has_kind,
            has_labels=self._shape.has_labels,
        )
        if has_changes:
            columns.insert(0, tables.CHANGES)
        if self._shape.is_colourful:
            return tables.Table(
                columns, has_headings=self._shape.has_headings, paint=tables.coloured
            )
        return tables.Table(columns, has_headings=self._shape.has_headings)


def _items(found: Sequence[Found]) -> list[View]:
    return [asked_resources.item(kind, view) for kind, views in found for view in views]


def _watched(kind: Kind, changed: Changed) -> View:
    """An item, or as an API server puts it into a watch: with what happened to it."""
    item = asked_resources.item(kind, changed.view)
    return {"type": changed.change, "object": item} if changed.change else item


class JSONPrinter:
    """JSON, indented as kubectl does it; an event of a watch is in one line."""

    def every(self, found: Sequence[Found]) -> str:
        return _json(asked_resources.as_list(_items(found)))

    def several(self, kind: Kind, changed: Sequence[Changed]) -> str:
        return "".join(
            json.dumps(_watched(kind, each), ensure_ascii=False) + "\n"
            if each.change
            else _json(_watched(kind, each))
            for each in changed
        )


def _json(value: Any) -> str:
    return json.dumps(value, indent=4, ensure_ascii=False) + "\n"


class YAMLPrinter:
    """YAML. In a watch each document follows a line `---`, but for the first."""

    def __init__(self) -> None:
        self._is_first = True

    def every(self, found: Sequence[Found]) -> str:
        return _yaml(asked_resources.as_list(_items(found)))

    def several(self, kind: Kind, changed: Sequence[Changed]) -> str:
        documents = [_yaml(_watched(kind, each)) for each in changed]
        opening = "" if self._is_first else "---\n"
        self._is_first = self._is_first and not documents
        return opening + "---\n".join(documents) if documents else ""


def _yaml(value: Any) -> str:
    import yaml  # noqa: PLC0415  # only -o yaml waits for it

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(
        value,
        Dumper=dumper,
        sort_keys=False,
        default_flow_style=False,
        allow_unicode=True,
        width=1_000_000,  # long texts stay in one line
    )
    return text


class NamePrinter:
    """`service/web`: the Services that something is shown of, each once."""

    def every(self, found: Sequence[Found]) -> str:
        return "".join(
            dict.fromkeys(self._line(kind, view) for kind, views in found for view in views)
        )

    def several(self, kind: Kind, changed: Sequence[Changed]) -> str:
        return "".join(self._line(kind, each.view) for each in changed)

    def _line(self, kind: Kind, view: View) -> str:
        return f"{kind.singular}/{errors.printable(view[kind.name_field])}\n"


_PLAIN: dict[str, Callable[[], Printer]] = {
    "json": JSONPrinter,
    "yaml": YAMLPrinter,
    "name": NamePrinter,
}


class TemplatePrinter:
    """A JSONPath template, applied to the List, or in a watch to each item."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._template = _template(text)

    def every(self, found: Sequence[Found]) -> str:
        """The template's text for the List, without an added line feed."""
        return self.rendered(asked_resources.as_list(_items(found)))

    def several(self, kind: Kind, changed: Sequence[Changed]) -> str:
        """The template's text for each item."""
        return "".join(self.rendered(_watched(kind, each)) for each in changed)

    def rendered(self, data: View) -> str:
        """The template's text for one object. Raises KproxyError if it does not fit."""
        try:
            return self._template.render(data)
        except jsonpath.TemplateError as error:
            raise errors.KproxyError(f"-o jsonpath={self._text}: {error}") from None


def _template(text: str) -> jsonpath.Template:
    try:
        return jsonpath.Template(text)
    except jsonpath.TemplateError as error:
        raise errors.ConfigError(f"-o jsonpath={text}: {error}") from None


_RELAXED = re.compile(r"\{\.?([^{}]+)\}|\.?([^{}]+)")


def path(text: str) -> jsonpath.Template:
    """A path with or without braces and leading dot, as kubectl takes it. Raises ConfigError."""
    match = _RELAXED.fullmatch(text)
    if match is None:
        raise errors.ConfigError(f"{text} is no path: write it as {{.metadata.name}}")
    return _template(f"{{.{match[1] or match[2]}}}")


class CustomPrinter:
    """A table with columns of the user's choice."""

    def __init__(self, spec: str, shape: Shape) -> None:
        self._columns = [self._column(part) for part in spec.split(",") if part]
        if not self._columns:
            raise errors.ConfigError("-o custom-columns= needs HEADING:PATH, such as NAME:.name")
        self._has_headings = shape.has_headings
        self._watched = tables.Table(self._columns, has_headings=shape.has_headings)

    def every(self, found: Sequence[Found]) -> str:
        table = tables.Table(self._columns, has_headings=self._has_headings)
        return "".join(f"{line}\n" for line in table.lines(_items(found)))

    def several(self, kind: Kind, changed: Sequence[Changed]) -> str:
        rows = [_watched(kind, each) for each in changed]
        return "".join(f"{line}\n" for line in self._watched.lines(rows))

    def _column(self, part: str) -> tables.Column:
        heading, _, where = part.partition(":")
        if not heading or not where:
            raise errors.ConfigError(f"-o custom-columns: {part} is not of the form HEADING:PATH")
        template = path(where)

        def show(item: View) -> str:
            try:
                found = template.results(item)
            except jsonpath.TemplateError as error:
                raise errors.KproxyError(f"-o custom-columns: {part}: {error}") from None
            return ",".join(jsonpath.shown(each) for each in found if each is not None)

        return tables.Column(heading, show)


def in_order(views: Sequence[View], kind: Kind, text: str) -> list[View]:
    """`views` sorted by the value at a path; those without one come first.

    Raises KproxyError where none has such a field, as kubectl does.
    """
    template = path(text)
    has_field = False

    def key(view: View) -> tuple[int, float, str]:
        nonlocal has_field
        try:
            found = template.results(asked_resources.item(kind, view))
        except jsonpath.TemplateError as error:
            raise errors.KproxyError(f"--sort-by={text}: {error}") from None
        has_field = has_field or bool(found)
        if not found or found[0] is None:
            return 0, 0.0, ""
        if isinstance(found[0], int | float):
            return 1, float(found[0]), ""
        return 2, 0.0, jsonpath.shown(found[0])

    made = sorted(views, key=key)
    if views and not has_field:
        raise errors.KproxyError(
            f"--sort-by={text}: none of the {len(views)} items has such a field; "
            "-o yaml shows which fields there are"
        )
    return made
