"""`kproxy get`: what a running proxy is doing, with kubectl's habits."""

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from kproxy import errors
from kproxy.cli.parse import asked_resources, completion
from kproxy.cli.render import hosts, output, tables
from kproxy.model import labels as label_selectors
from kproxy.ops.serving import places
from kproxy.ops.views import control_client

ControlOption = Annotated[
    str | None,
    typer.Option(
        metavar="PATH", help="The proxy's control socket.", show_default="that of kproxy run"
    ),
]
NamespaceOption = Annotated[
    str,
    typer.Option(
        "--namespace",
        "-n",
        metavar="NS",
        help="Only this namespace.",
        autocompletion=completion.namespaces,
    ),
]
SelectorOption = Annotated[
    str,
    typer.Option(
        "--selector",
        "-l",
        metavar="SELECTOR",
        help="Only Services with these labels.",
        show_default=False,
    ),
]
DocumentOption = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="FORMAT",
        help=f"One of {output.DOCUMENT_FORMATS}.",
        autocompletion=completion.words(output.DOCUMENT_FORMATS_OFFERED),
    ),
]
EveryNamespaceOption = Annotated[
    bool, typer.Option("--all-namespaces", "-A", help="All namespaces.")
]


def get(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="RESOURCE",
            help="services, gateways, routes, ingresses, endpoints, affinity, connections, events "
            "or hosts, then names of Services; or svc/web; or svc,ep; or all.",
            show_default=False,
            autocompletion=completion.resources_and_names,
        ),
    ],
    namespace: NamespaceOption = "default",
    all_namespaces: EveryNamespaceOption = False,  # noqa: FBT002  # a flag
    output_format: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FORMAT",
            help=f"One of {output.FORMATS}.",
            show_default=False,
            autocompletion=completion.words(output.FORMATS_OFFERED),
        ),
    ] = "",
    selector: SelectorOption = "",
    watch: Annotated[  # noqa: FBT002  # a flag
        bool, typer.Option("--watch", "-w", help="After the list, print changes until Ctrl-C.")
    ] = False,
    watch_only: Annotated[  # noqa: FBT002  # a flag
        bool, typer.Option("--watch-only", help="Print changes alone, without the list.")
    ] = False,
    watch_events: Annotated[  # noqa: FBT002  # a flag
        bool,
        typer.Option(
            "--output-watch-events",
            help="With --watch: say of each line whether it was ADDED, MODIFIED or DELETED.",
        ),
    ] = False,
    no_headers: Annotated[  # noqa: FBT002  # a flag
        bool, typer.Option("--no-headers", help="Tables without headings.")
    ] = False,
    show_labels: Annotated[  # noqa: FBT002  # a flag
        bool, typer.Option("--show-labels", help="Add a column of Services' labels.")
    ] = False,
    sort_by: Annotated[
        str, typer.Option(metavar="PATH", help="Sort by this field.", show_default=False)
    ] = "",
    ignore_not_found: Annotated[  # noqa: FBT002  # a flag
        bool,
        typer.Option("--ignore-not-found", help="Exit with 0 if a named Service is not served."),
    ] = False,
    control: ControlOption = None,
) -> None:
    """Show the services, endpoints, connections and so on of a running proxy.

    Short names such as svc and ep are taken too. Names are those of Services, or, for gateways and
    ingresses, of these.
    `get hosts` prints lines for /etc/hosts, with short names for the Services of the namespace.
    """
    wanted = asked_resources.wanted(arguments)
    shape = output.Shape(
        has_headings=not no_headers,
        has_namespace=all_namespaces,
        has_labels=show_labels,
        is_colourful=tables.is_colourful(os.environ, is_terminal=sys.stdout.isatty()),
    )
    printer = output.printer(output_format, shape)
    asked = Question(
        control_path(control),
        "" if all_namespaces else namespace or "default",
        checked_selector(selector, wanted),
        own_namespace=namespace or "default",
    )
    if asked.selector and any(each.kind.plural == "events" for each in wanted):
        raise errors.ConfigError("events have no labels: name a Service in place of -l")
    if watch_events and not (watch or watch_only):
        raise errors.ConfigError("--output-watch-events is for --watch and --watch-only")
    if watch or watch_only:
        if len(wanted) > 1:
            raise errors.ConfigError("--watch follows one resource, of one Service or of all")
        if sort_by:
            typer.echo(
                "Warning: --watch prints changes as they come; --sort-by is ignored", err=True
            )
        asked.watch(wanted[0], printer, shows_list=not watch_only, shows_events=watch_events)
        return
    found, missing = asked.all(wanted)
    if missing and len(wanted) == 1:  # kubectl prints no empty List of one name
        if ignore_not_found:
            return
        raise missing[0]
    if sort_by:
        found = [output.Found(kind, output.in_order(views, kind, sort_by)) for kind, views in found]
    is_hosts_file = {each.kind.plural for each in wanted} == {"hosts"}
    if is_hosts_file and isinstance(printer, output.TablePrinter) and not printer.is_wide:
        lines = [view for each in found for view in each.views]
        text = hosts.fragment(lines, asked.namespace, has_comments=not no_headers)
    else:
        text = printer.every(found)
    sys.stdout.write(text)
    if not text and not missing:
        if isinstance(printer, output.TablePrinter):
            typer.echo(errors.printable(_nothing(asked.namespace)), err=True)
        elif isinstance(printer, output.TemplatePrinter) and any(views for _, views in found):
            typer.echo(
                "Warning: the template found nothing: start it at the List, {.items[*]…}", err=True
            )
    if missing and not ignore_not_found:
        *others, last = missing
        for each in others:
            typer.echo(f"kproxy: {errors.printable(str(each))}", err=True)
        raise last


def _nothing(namespace: str) -> str:
    """kubectl's sentence for an empty result."""
    return f"No resources found in {namespace} namespace." if namespace else "No resources found"


class Question:
    """A question to a proxy: about which namespace ("" for all), and Services with which labels.

    Lines of a hosts file have short names for the Services of `own_namespace`.
    """

    def __init__(
        self, control: Path, namespace: str, selector: str = "", own_namespace: str = ""
    ) -> None:
        self.namespace = namespace
        self.selector = selector
        self._own_namespace = own_namespace
        self._control = control
        self._warned = ""

    def all(
        self, wanted: Sequence[asked_resources.Wanted]
    ) -> tuple[list[output.Found], list[errors.KproxyError]]:
        """The views of each resource, and a sentence for each named Service that is not served."""
        views: dict[asked_resources.Kind, list[asked_resources.View]] = {}
        missing: list[errors.KproxyError] = []
        for kind, name in ((each.kind, each.name) for each in wanted):
            try:
                found = control_client.fetch(
                    self._control,
                    kind.plural,
                    namespace=self.namespace,
                    name=name,
                    selector=self.selector,
                    on_warning=self._warn,
                )
            except errors.NotServedError as error:
                missing.append(error)
            else:
                views.setdefault(kind, []).extend(self._named(kind, view) for view in found)
        return [output.Found(kind, found) for kind, found in views.items()], missing

    def events(self) -> list[asked_resources.View]:
        """What happened lately in the namespace; empty if the proxy is too old to keep events."""
        try:
            return control_client.fetch(self._control, "events", namespace=self.namespace)
        except errors.KproxyError:
            return []

    def watch(
        self,
        wanted: asked_resources.Wanted,
        printer: output.Printer,
        *,
        shows_list: bool = True,
        shows_events: bool = False,
    ) -> None:
        """Print what there is, then what changes. Raises KproxyError when the proxy ends."""
        known: dict[tuple[object, ...], asked_resources.View] = {}
        events = control_client.watch(
            self._control,
            wanted.kind.plural,
            namespace=self.namespace,
            name=wanted.name,
            selector=self.selector,
            on_warning=self._warn,
        )
        identity = control_client.IDENTITIES.get(wanted.kind.plural)
        with contextlib.closing(events):
            listed: list[output.Changed] | None = []
            for event, view in events:
                if event == "BOOKMARK":
                    if listed is not None and shows_list:  # the list is complete
                        sys.stdout.write(printer.several(wanted.kind, listed))
                    listed = None
                    sys.stdout.flush()
                    continue
                shown: asked_resources.View | None = view
                if identity is not None:  # unlike an event, which happened once
                    key = tuple(view[name] for name in identity)
                    # The object of a DELETED has only the identifying fields: print the last known
                    # view.
                    shown = known.pop(key, None) if event == "DELETED" else view
                    if event != "DELETED":
                        known[key] = view
                if shown is None:
                    continue
                changed = output.Changed(
                    self._named(wanted.kind, shown), event if shows_events else ""
                )
                if listed is not None:
                    listed.append(changed)
                else:
                    sys.stdout.write(printer.several(wanted.kind, [changed]))
                    sys.stdout.flush()

    def _named(
        self, kind: asked_resources.Kind, view: asked_resources.View
    ) -> asked_resources.View:
        if kind.plural != "hosts":
            return view
        return hosts.with_short_name(view, self._own_namespace)

    def _warn(self, text: str) -> None:
        if text and text != self._warned:
            typer.echo(f"Warning: {errors.printable(text)}", err=True)
        self._warned = text


def checked_selector(selector: str, wanted: Sequence[asked_resources.Wanted]) -> str:
    """A selector that can be read. Raises ConfigError, and where names choose already."""
    try:
        label_selectors.parse(selector)
    except label_selectors.SelectorError as error:
        raise errors.ConfigError(f"-l {selector}: {error}") from None
    if selector and any(each.name for each in wanted):
        raise errors.ConfigError("-l chooses Services by their labels: give it without a name")
    return selector


def control_path(given: str | None) -> Path:
    """The socket to ask. Raises ConfigError for an empty path."""
    if given is None:
        return places.default_control_path(os.environ, os.geteuid())
    if not given:
        raise errors.ConfigError("--control is empty: give the path that kproxy run was given")
    return Path(given)
