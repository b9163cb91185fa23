"""`kproxy run`: the command line and the environment into a Config, and serve."""

import contextlib
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from kproxy import config, errors, settings
from kproxy.cli import event_loop
from kproxy.cli.parse import kube_proxy, options, variables
from kproxy.ops import log
from kproxy.portal.portal import PortalName
from kproxy.system import privileges, process

if TYPE_CHECKING:
    from kproxy.command import command

_ROWS = settings.table(config.Config)
_EARLY = {
    row.attribute: row
    for row in _ROWS
    if row.attribute in ("oom_score_adj", "portal", "bpf", "cleanup", "ingress")
}
"""Settings that count before the others can be read."""

_log = log.get_logger(__name__)


class Command(options.Command):
    """The command line of `kproxy run`, which understands kube-proxy's flags too."""

    rows = _ROWS

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the settings into the context's `params`, and sentences for the log into `obj`."""
        own, words = _split(args)
        translated = kube_proxy.translate(own, options.takes_value(_ROWS))
        if translated.ending is not None and not ctx.resilient_parsing:
            typer.echo(translated.ending)
            ctx.exit()
        ctx.obj = _Asked(translated.notes, words)
        return super().parse_args(ctx, translated.arguments)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The command of the user comes last."""
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND [ARG]...]"]


class _Asked(NamedTuple):
    """What stands on the command line beside settings: sentences for the log, and a command."""

    notes: list[str]
    command: list[str]


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments before `--` and the command behind it; [] if there is none.

    Raises ConfigError if nothing is behind it.
    """
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    if at + 1 == len(arguments):
        raise errors.ConfigError("nothing follows --: name the command to run, or leave -- out")
    return arguments[:at], arguments[at + 1 :]


@options.takes(_ROWS)
def run(invocation: typer.Context, **flags: settings.Given) -> int:
    """Serve the Services of a cluster, or of manifests, on virtual ClusterIPs until stopped.

    Ctrl-C or SIGTERM stops accepting and lets connections finish; a second one ends at once.

    With a COMMAND, kproxy starts it when everything is served, with the *_SERVICE_HOST and
    *_SERVICE_PORT of Services in its environment, and ends with it and its exit code.

    Each option may also be given as an environment variable: --idle-timeout as
    KPROXY_IDLE_TIMEOUT. Durations are written as 30s, 5m, 1h30m, 250ms or plain seconds.
    `kproxy config reference` lists all options with their bounds. Flags of kube-proxy that mean
    nothing here are accepted, and named in the log.
    """
    process.check_open_files()
    asked: _Asked = invocation.obj
    if not asked.command:
        return _serve(asked, flags, None)
    # Before anything is given up or raised: the command has the rights and limits of the user.
    from kproxy.command import command  # noqa: PLC0415  # only this needs it

    ours = [row.variable for row in _ROWS]
    with contextlib.closing(
        command.Command(asked.command, command.own_environment(ours))
    ) as prepared:
        try:
            return _serve(asked, flags, prepared)
        except process.EndedError:
            return process.signals.exit_code


def _serve(
    asked: _Asked, flags: Mapping[str, settings.Given], beside: "command.Command | None"
) -> int:
    """Read the settings, and serve until the end; the exit code."""
    # Capabilities belong to threads: give them up while there is one, and later threads have none.
    early = {
        each.setting.attribute: each.value
        for each in settings.read(list(_EARLY.values()), flags, os.environ)
    }
    score = early["oom_score_adj"]
    notes = [] if score is None else [process.adjust_oom_score(score)]
    if early["cleanup"]:
        if beside is not None:
            raise errors.ConfigError("--cleanup ends at once: give no command with it")
        _clean_up()
        return 0
    needed = _needed(early["portal"], may_use_bpf=early["bpf"], is_ingress=early["ingress"])
    if privileges.Capability.BPF in needed:
        process.lift_locked_memory_limit()  # while root still has the right
    reading = privileges.Capability.DAC_READ_SEARCH
    privileges.limit_to(needed, here=[reading])
    slips = list(variables.misspelt([row.variable for row in _ROWS], os.environ))
    try:
        chosen = config.load(flags, os.environ)
    except errors.ConfigError as error:
        raise errors.ConfigError("; ".join((str(error), *slips[:1]))) from error
    foreign = privileges.unreadable(config.files(chosen, os.environ))
    if foreign is None:
        privileges.limit_to(needed)
    else:
        notes.append(
            f"kproxy keeps the right to read every file, for {foreign} belongs to another user: "
            "run kproxy as that user, or give the file to root"
        )
    notes += slips
    writer = log.configure(chosen.log_format, chosen.least_level)
    try:
        for note in filter(None, notes):
            _log.warning(note)
        for note in asked.notes:
            _log.info(note)
        # Importing it takes half a second: a mistyped flag is reported before.
        from kproxy import server  # noqa: PLC0415

        return event_loop.run(server.serve(chosen, lambda: writer.dropped, beside))
    finally:
        writer.close()


def _needed(
    name: PortalName, *, may_use_bpf: bool, is_ingress: bool
) -> Iterable[privileges.Capability]:
    """What a portal, and root's nginx, need beyond ordinary users' rights."""
    beside = privileges.INGRESS if is_ingress and os.geteuid() == 0 else frozenset()
    if name is PortalName.LOOPBACK:
        return privileges.LOOPBACK_PORTAL | beside
    portal = privileges.LOCAL_PORTAL_WITH_BPF if may_use_bpf else privileges.LOCAL_PORTAL
    return portal | beside


def _clean_up() -> None:
    """Remove what the local portal of an earlier life left. Raises KproxyError."""
    privileges.limit_to(privileges.LOCAL_PORTAL)
    from kproxy.portal.local import local  # noqa: PLC0415  # only this needs it

    removed = local.clean_up()
    typer.echo(f"{removed} routes removed" if removed != 1 else "1 route removed")
