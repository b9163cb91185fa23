"""`kproxy run`: the command line and the environment into a Config, and serve."""

import os
from typing import Any

import typer

from kproxy import config, privileges, process, settings
from kproxy.cli import event_loop
from kproxy.cli.parse import kube_proxy, options
from kproxy.ops import log

_ROWS = settings.table(config.Config)
(_OOM_SCORE,) = (row for row in _ROWS if row.attribute == "oom_score_adj")

_log = log.get_logger(__name__)


class Command(options.Command):
    """The command line of `kproxy run`, which understands kube-proxy's flags too."""

    rows = _ROWS

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the settings into the context's `params`, and sentences for the log into `obj`."""
        translated = kube_proxy.translate(args, options.takes_value(_ROWS))
        if translated.ending is not None and not ctx.resilient_parsing:
            typer.echo(translated.ending)
            ctx.exit()
        ctx.obj = translated.notes
        return super().parse_args(ctx, translated.arguments)


@options.takes(_ROWS)
def run(invocation: typer.Context, **flags: settings.Given) -> None:
    """Serve the Services of a cluster, or of manifests, on virtual ClusterIPs until stopped.

    Ctrl-C or SIGTERM stops accepting and lets connections finish; a second one ends at once.

    Each option may also be given as an environment variable: --idle-timeout as
    KPROXY_IDLE_TIMEOUT. Durations are written as 30s, 5m, 1h30m, 250ms or plain seconds.
    `kproxy config reference` lists all options with their bounds. Flags of kube-proxy that mean
    nothing here are accepted, and named in the log.
    """
    process.check_open_files()
    # Capabilities belong to threads: give them up while there is one, and later threads have none.
    (score,) = settings.read([_OOM_SCORE], flags, os.environ)
    notes = [] if score.value is None else [process.adjust_oom_score(score.value)]
    reading = privileges.Capability.DAC_READ_SEARCH
    privileges.limit_to(privileges.LOOPBACK_PORTAL, here=[reading])
    chosen = config.load(flags, os.environ)
    foreign = privileges.unreadable(config.files(chosen, os.environ))
    if foreign is None:
        privileges.limit_to(privileges.LOOPBACK_PORTAL)
    else:
        notes.append(
            f"kproxy keeps the right to read every file, for {foreign} belongs to another user: "
            "run kproxy as that user, or give the file to root"
        )
    writer = log.configure(chosen.log_format, chosen.least_level)
    try:
        for note in filter(None, notes):
            _log.warning(note)
        for note in invocation.obj or ():
            _log.info(note)
        # Importing it takes half a second: a mistyped flag is reported before.
        from kproxy import server  # noqa: PLC0415

        event_loop.run(server.serve(chosen, lambda: writer.dropped))
    finally:
        writer.close()
