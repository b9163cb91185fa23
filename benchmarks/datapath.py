"""START HERE: kproxy's data path beside no proxy, HAProxy, nginx and a plain asyncio proxy.

    python benchmarks/datapath.py --json results.json

In one run and on one machine. For every round, for every scenario, every peer is measured once;
the order rotates, so that each peer is first, last and after every other one in turn. Ratios are
taken inside a round. What is measured:

connect     short connections, 64 at once, one small HTTP request each (wrk, `Connection: close`)
request     requests over 64 keep-alive connections (wrk)
bulk        bytes from backend to client, one stream and eight (how they are made: `load`)
latency     64 bytes there and back, one connection
idle        resident memory per connection with 4,000 of them, each idle after one request
blackhole   one of four endpoints swallows SYNs, 50 new connections a second, whatever happens

CPU is that of the proxy's processes alone, from the scheduler's clock. Everything runs on
loopback, with an nginx of one worker as HTTP backend, unpinned, one wrk thread.
"""

import argparse
import contextlib
import dataclasses
import datetime as dt
import resource
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

if not __package__:  # run as a file: its own folder must not stand for the package
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import blackhole, figures, peers, processes, report, scenarios
from benchmarks.figures import Round
from benchmarks.processes import BenchmarkError

_OPEN_FILES = 20_000
_QUIET_LOAD = 0.5


class Run:
    """The rounds measured so far, and what went wrong on the way."""

    def __init__(self, chosen: list[peers.Peer], names: list[str]) -> None:
        self.rounds: list[Round] = []
        self.problems: list[str] = []
        self._peers = chosen
        self._scenarios = names

    def try_all(self, rig: scenarios.Rig) -> None:
        """Start every peer once; one that does not come up is named once and left out."""
        for peer in list(self._peers):
            try:
                scenarios.try_out(peer, rig)
            except (BenchmarkError, OSError) as error:
                self._problem("not measured:", peer.name, error)
                self._peers.remove(peer)

    def measure(self, rounds: int, rig: scenarios.Rig) -> None:
        """Measure; `self.rounds` holds what is done at any moment, also after Ctrl-C."""
        for number in range(1, rounds + 1):
            order = figures.rotated(self._peers, number - 1)
            current = Round(number, [peer.name for peer in order])
            self.rounds.append(current)
            for scenario in self._scenarios:
                concerned = [peer for peer in order if peer.measures(scenario)]
                where = f"round {number}/{rounds} {scenario}"
                if scenario == peers.BLACKHOLE:
                    self._all_at_once(concerned, rig, current, where)
                    continue
                for peer in concerned:
                    try:
                        values = scenarios.MEASURE[scenario](peer, rig)
                    except (BenchmarkError, OSError) as error:
                        self._problem(where, peer.name, error)
                    else:
                        self._keep(current, peer.name, scenario, values, where)

    def _all_at_once(
        self, concerned: list[peers.Peer], rig: scenarios.Rig, current: Round, where: str
    ) -> None:
        try:
            measured, failed = blackhole.measure(concerned, rig)
        except (BenchmarkError, OSError) as error:
            self._problem(where, "all peers", error)
            return
        for name, reason in failed.items():
            self._problem(where, name, reason)
        for name, values in measured.items():
            self._keep(current, name, peers.BLACKHOLE, values, where)

    def _keep(
        self, current: Round, name: str, scenario: str, measured: figures.Figures, where: str
    ) -> None:
        named = {f"{scenario}.{figure}": value for figure, value in measured.items()}
        current.add(name, named)
        if measured.get("errors"):
            self._problem(where, name, BenchmarkError(f"wrk saw {measured['errors']:.0f} errors."))
        shown = [r for r in report.ROWS if r.figure in named]
        values = "; ".join(f"{r.label} {report.number(named[r.figure], r.decimals)}" for r in shown)
        print(f"{where} {name}: {values}", file=sys.stderr)

    def _problem(self, where: str, name: str, error: Exception) -> None:
        # Results are published: where this Python lives is nobody's business.
        self.problems.append(f"{where} {name}: {error}".replace(sys.executable, "python"))
        print(self.problems[-1], file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure kproxy's data path beside other proxies, in one interleaved run."
    )
    parser.add_argument("--rounds", type=_positive, help="default 5; 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="one short round, under a minute")
    parser.add_argument(
        "--only", action="append", choices=peers.SCENARIOS, help="a scenario; may be repeated"
    )
    parser.add_argument(
        "--peers",
        action="append",
        type=_peers,
        metavar="NAMES|NAME=COMMAND",
        help=f"{', '.join(peers.KNOWN)} (default: {','.join(peers.DEFAULT)}), or a command with "
        "{listen} and {backend} (or {backends}) in it; may be repeated",
    )
    parser.add_argument(
        "--subject",
        default="kproxy",
        metavar="NAME",
        help="whose ratios and targets are shown (default kproxy, which is added to the peers)",
    )
    parser.add_argument(
        "--kproxy-command",
        type=shlex.split,
        metavar="COMMAND",
        help="instead of `python -m kproxy run`; --manifests and other flags are appended",
    )
    parser.add_argument("--json", type=_writable, metavar="FILE", help="write every raw figure")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} rounds measure nothing; give 1 or more")
    return value


def _peers(text: str) -> list[peers.Peer]:
    try:
        return peers.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _writable(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir() or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} cannot be written; its folder must exist")
    return path


def _chosen(args: argparse.Namespace, parser: argparse.ArgumentParser) -> list[peers.Peer]:
    """The subject first, then the peers, each once."""
    asked = args.peers or [[peers.KNOWN[name] for name in peers.DEFAULT]]
    by_name = {peer.name: peer for group in asked for peer in group}
    if args.subject == "kproxy":
        command = tuple(args.kproxy_command) if args.kproxy_command else peers.KPROXY_RUN
        by_name.setdefault("kproxy", peers.Kproxy(command))
    if args.subject not in by_name:
        parser.error(f"--subject {args.subject}: it is not among the peers; add it to --peers")
    return [by_name.pop(args.subject), *by_name.values()]


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the measuring, once; what follows (cleaning up) is left in peace."""

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (signal's protocol)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {each: signal.signal(each, interrupt) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _allow_open_files() -> None:
    """Raise the soft limit, which children inherit, as far as the hard one goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main(argv: list[str]) -> int:
    """0 when everything asked for was measured, 1 when not, 2 for wrong usage, 130 for Ctrl-C."""
    parser = _parser()
    args = parser.parse_args(argv)
    chosen = _chosen(args, parser)
    size = scenarios.QUICK if args.quick else scenarios.FULL
    names = [name for name in peers.SCENARIOS if not args.only or name in args.only]
    _allow_open_files()
    try:
        versions = report.versions(chosen)
        machine = report.machine()
        if machine["load_average_before"] > _QUIET_LOAD:
            busy = f"the machine is busy (load {machine['load_average_before']})"
            print(f"{busy}: the figures will be noisy, p99 most of all", file=sys.stderr)
        facts: dict[str, object] = {
            "command": shlex.join(["python", "benchmarks/datapath.py", *argv]),
            "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "machine": machine,
            "versions": versions,
            "size": dataclasses.asdict(size),
        }
        return _measure(args, chosen, names, size, facts)
    except BenchmarkError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1


def _measure(
    args: argparse.Namespace,
    chosen: list[peers.Peer],
    names: list[str],
    size: scenarios.Size,
    facts: dict[str, object],
) -> int:
    rounds = args.rounds or (1 if args.quick else report.ROUNDS_FOR_A_CLAIM)
    run = Run(list(chosen), names)
    interrupted = False
    with _interruptible():
        try:
            with (
                tempfile.TemporaryDirectory(prefix="kproxy-bench-") as folder,
                scenarios.rig(Path(folder), size) as rig,
            ):
                run.try_all(rig)
                run.measure(rounds, rig)
        except KeyboardInterrupt:
            processes.end_leftovers()
            interrupted = True
            print("interrupted: what was measured until now follows", file=sys.stderr)
    columns = [peer.name for peer in chosen]
    if args.json:  # first: a reader who closes the pipe must not cost the results
        facts = {**facts, "interrupted": interrupted, "problems": run.problems}
        report.write(args.json, report.document(run.rounds, args.subject, columns, facts))
    report.show(run.rounds, args.subject, columns)
    for problem in run.problems:
        print(f"not as it should be: {problem}", file=sys.stderr)
    return 130 if interrupted else int(bool(run.problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
