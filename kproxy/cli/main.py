"""The `kproxy` command: finds the subcommand, and turns every failure into one sentence.

Exit codes: 0 done, 1 failed at run time, 2 wrong usage or configuration, 130 ended by Ctrl-C.
Errors go to stderr; a traceback never reaches a user.

Only what the subcommand needs is imported, and as late as possible: `kproxy get` does not wait for
the simulated cluster, and a Ctrl-C during the imports already ends the process in the right way.
"""

import contextlib
import gc
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from kproxy import errors
from kproxy.system import process

if TYPE_CHECKING:
    import typer

COMMANDS = {
    "run": "Serve Services on virtual ClusterIPs.",
    "get": "Show what a running proxy is doing.",
    "explain": "Say what a client of a Service would meet, and why.",
    "describe": "Show everything a running proxy knows of a Service.",
    "status": "Show the state of a running proxy.",
    "simulate": "Run a simulated cluster, for kubectl and for the proxy.",
    "demo": "Watch the proxy at work, without a cluster and without root.",
    "bench": "Measure what a userspace proxy costs.",
    "config": "Show the settings of kproxy run.",
    "version": "Print the version.",
}
"""The subcommands: each is a function, or a typer app called `app`, of `kproxy.cli.<name>`."""

_NAME = "kproxy"
_COMPLETING = "_KPROXY_COMPLETE"
"""The environment variable by which a shell asks for completions: typer's, for `_NAME`."""

_COMPLETION = ("--show-completion", "--install-completion")

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""

_NOT_READ = 128 + signal.SIGPIPE
"""The same for a reader that had enough, such as `head`."""


SERVING = frozenset({"run", "simulate", "demo"})
"""The commands that go on until a signal ends them. They enable the garbage collector when all that
lasts is there."""


def main() -> None:
    """Run the command line that this process was given, and end with its exit code."""
    process.open_standard_streams()
    gc.disable()  # what imports make lasts: a fifth of their time would go to look for garbage
    arguments = sys.argv[1:] or ["--help"]
    try:
        if arguments[0] in SERVING:
            process.signals.take(reloads=arguments[0] == "run")
        code = run(arguments)
    except process.EndedError:
        # A command that was never started has not succeeded.
        code = process.signals.exit_code if "--" in arguments else 0
    if code == _NOT_READ:
        # End as other tools do. Not before: a peer that closes a socket would end kproxy as well.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.raise_signal(signal.SIGPIPE)
    _write_or_discard_the_rest()
    sys.exit(code)


def _write_or_discard_the_rest() -> None:
    """Empty the buffer of stdout. Where that failed at exit, Python would end with code 120."""
    try:
        sys.stdout.flush()
    except OSError:  # a terminal that was closed
        process.discard_output()


def run(arguments: list[str]) -> int:
    """The exit code of `kproxy ARGUMENTS`; what went wrong is on stderr."""
    if _COMPLETING in os.environ:
        return _complete()
    try:
        import typer  # noqa: PLC0415  # see above

        try:
            code = _call(arguments)
            sys.stdout.flush()
        except typer.TyperException as error:
            return _fail(_usage_sentence(error, arguments[0]), errors.ConfigError.exit_code)
        except typer.Abort:
            return INTERRUPTED
        except SystemExit as ended:  # which is what typer makes of a BrokenPipeError
            if isinstance(ended.__context__, BrokenPipeError):
                raise ended.__context__ from None
            raise
        else:
            return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        process.discard_output()
        return _NOT_READ
    except Exception as error:
        first = errors.first_expected(error)
        if isinstance(first, errors.KproxyError):
            return _fail(str(first), first.exit_code)
        if sentence := errors.shortage(first):
            process.discard_output()  # stdout may be on the full disk
            return _fail(sentence, errors.KproxyError.exit_code)
        if sys.flags.dev_mode:
            raise
        return _fail(_bug_sentence(first), errors.KproxyError.exit_code)


def _complete() -> int:
    """Answer a shell that completes a command line; errors would garble it, and are not shown."""
    words = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS", "")
    chosen = [*words.split(), "", ""][1]
    with contextlib.suppress(Exception, SystemExit):
        _all(chosen)([], prog_name=_NAME, standalone_mode=False)
    return 0


def _call(arguments: list[str]) -> int:
    """Let typer read the arguments and call the subcommand. Raises what the subcommand raises."""
    first, *others = arguments
    if first in ("--version", "-V"):
        first, others = "version", []
    if first == "help":  # `kproxy help get`, as kubectl has it
        first, *others = arguments = [*others, "--help"]
    flag, _, shell = first.partition("=")
    if flag in _COMPLETION:
        return _script(flag, shell or next(iter(others), ""))
    if first not in COMMANDS:  # help, a mistake
        return _all("")(arguments, prog_name=_NAME, standalone_mode=False) or 0
    # Not through the group of all commands: typer would load pydantic for the group's options.
    with _interruptible():
        command = _one(first)
    if first not in SERVING:
        gc.enable()
    return command(others, prog_name=f"{_NAME} {first}", standalone_mode=False) or 0


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C while modules are imported is a KeyboardInterrupt, whatever they make of it.

    Python's parser, for one, makes a SyntaxError of an interrupt that comes while it loads
    unicodedata, and some modules go on without what they failed to import.
    """
    has_come = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal has_come
        has_come = True
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except Exception:
        if has_come:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)
    if has_come:
        raise KeyboardInterrupt


def _script(flag: str, shell: str) -> int:
    """Print or install the script that makes a shell complete; "": the shell that is running."""
    from kproxy.cli.parse import completion  # noqa: PLC0415  # see above

    try:
        if shell:
            (completion.show if flag == _COMPLETION[0] else completion.install)(shell)
            return 0
        return _all("")([flag], prog_name=_NAME, standalone_mode=False) or 0
    except OSError as error:
        if error.filename is None:  # stdout
            raise
        raise errors.KproxyError(
            f"{flag}: {errors.reason(error)}: {error.filename}; --show-completion prints the script"
        ) from error


def _all(chosen: str) -> "typer.Typer":
    """All subcommands; only the `chosen` one is imported, the others have empty bodies."""
    import typer  # noqa: PLC0415  # see above

    app = typer.Typer(
        name=_NAME,
        help="A userspace Kubernetes service proxy: Services in, virtual ClusterIPs out.",
        rich_markup_mode=None,  # rich cuts the names of options, and drops text in brackets
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def kproxy(
        version: bool = typer.Option(  # noqa: FBT001  # read by `_call`
            False,  # noqa: FBT003
            "--version",
            "-V",
            help="Print the version and exit.",
        ),
    ) -> None:
        pass

    for name, summary in COMMANDS.items():
        if name == chosen:
            _add(app, name)
        else:
            app.command(name, short_help=summary)(lambda: None)
    return app


def _one(name: str) -> "typer.Typer":
    import typer  # noqa: PLC0415  # see above

    app = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    return _add(app, name) or app


def _add(app: "typer.Typer", name: str) -> "typer.Typer | None":
    """Add a subcommand to `app`; the subcommand's own app, if it has one."""
    if name in SERVING:
        importlib.import_module("kproxy.ops.log")  # before others import structlog: see there
    module = importlib.import_module(f"kproxy.cli.{name}")
    if hasattr(module, "app"):
        app.add_typer(module.app, name=name, short_help=COMMANDS[name])
        own: typer.Typer = module.app
        return own
    from kproxy.cli.parse import go_flags  # noqa: PLC0415  # see above

    command_class = getattr(module, "Command", go_flags.Command)
    app.command(name, cls=command_class, short_help=COMMANDS[name])(getattr(module, name))
    return None


def _usage_sentence(error: "typer.TyperException", first: str) -> str:
    """Typer's complaint about the arguments, as one sentence in the style of kproxy's own.

    `first` is the first argument: typer does not say in which command an option lacks its value.
    """
    message = error.format_message().rstrip(".?").replace("Value error, ", "")
    message = message.replace(". Did you mean", ": did you mean").replace("? (", " (")
    message = message.replace("Input should be", "it must be")
    context: typer.Context | None = getattr(error, "ctx", None)
    command = f"{_NAME} {first}" if first in COMMANDS else _NAME
    if context:
        command = context.command_path
    return f"{message[:1].lower()}{message[1:]}; see {command} --help"


def _bug_sentence(error: Exception) -> str:
    """The sentence for an unexpected error: no traceback, but enough to report it."""
    import traceback  # noqa: PLC0415  # hardly ever needed

    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    what = " ".join(traceback.format_exception_only(error)[-1].split())
    return f"a bug{where}: {what}; please report it, with what python -X dev -m kproxy prints"


def _fail(sentence: str, code: int) -> int:
    sys.stderr.write(f"kproxy: {errors.printable(sentence)}\n")
    return code
