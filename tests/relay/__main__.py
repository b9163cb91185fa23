"""Run the suite against a proxy: python -m tests.relay HOST:PORT BACKEND."""

import argparse
import asyncio
import collections.abc
import json
import os
import pathlib
import socket
import sys
from typing import Final, NoReturn

from tests.relay import cases, registry, rig

_WRONG_USAGE: Final = 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """End with one sentence and the exit code for wrong usage."""
        self.exit(_WRONG_USAGE, f"{self.prog}: {message}; try --help\n")


def _address(text: str) -> rig.Address:
    host, colon, port = text.rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no address: write HOST:PORT with a port from 1 to 65535"
        )
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except OSError:
        raise argparse.ArgumentTypeError(f"{host!r} is no known host: write its IP") from None
    resolved = found[0][4]
    return str(resolved[0]), int(resolved[1])


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m tests.relay",
        description="Ask a TCP proxy that listens on PROXY and forwards to BACKEND, where this "
        "suite listens, for every behaviour a transparent relay owes. Exit code 0: no case "
        "failed, 1: some did, 2: wrong usage.",
    )
    parser.add_argument("proxy", metavar="HOST:PORT", nargs="?", type=_address)
    parser.add_argument("backend", metavar="BACKEND", nargs="?", type=_address)
    parser.add_argument("--case", action="append", metavar="ID", help="only this case (repeatable)")
    parser.add_argument("--list", action="store_true", help="list the cases and end")
    parser.add_argument("--long", action="store_true", help="full sizes and waits (many minutes)")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    parser.add_argument("--pid", type=int, help="the proxy's process, to judge its memory")
    parser.add_argument("--seed", type=int, default=1, help="of streams and chaos (default 1)")
    parser.add_argument(
        "--half-close-timeout",
        type=float,
        metavar="SECONDS",
        help="after which the proxy ends a silent half-closed connection",
    )
    return parser


def _chosen(parser: argparse.ArgumentParser, wanted: list[str] | None) -> list[registry.Case]:
    known = {case.id: case for case in cases.ALL}
    ids = [name.upper() for name in wanted] if wanted else list(known)
    for name in ids:
        if name not in known:
            parser.error(f"there is no case {name!r}: --list shows them")
    return [known[name] for name in ids]


def _target(parser: argparse.ArgumentParser, options: argparse.Namespace) -> rig.Target:
    if options.proxy is None or options.backend is None:
        parser.error("both HOST:PORT of the proxy and its BACKEND are needed")
    if options.pid is not None and not pathlib.Path(f"/proc/{options.pid}").exists():
        parser.error(f"there is no process {options.pid}: give the proxy's own with --pid")
    try:
        listener = rig.listen(options.backend)
    except OSError as error:
        host, port = options.backend
        why = os.strerror(error.errno or 0)
        parser.error(f"cannot listen as the backend on {host}:{port} ({why})")
    try:
        socket.create_connection(options.proxy, timeout=rig.PROMPT).close()
    except OSError as error:
        listener.close()
        host, port = options.proxy
        parser.error(f"no proxy answers on {host}:{port} ({error.strerror or error})")
    return rig.Target(options.proxy, listener, options.pid, options.half_close_timeout)


async def _run(
    target: rig.Target, chosen: list[registry.Case], options: argparse.Namespace
) -> collections.abc.AsyncIterator[registry.Outcome]:
    for case in chosen:
        yield await registry.run(case, rig.Rig(target, long=options.long, seed=options.seed))


async def _report(
    target: rig.Target, chosen: list[registry.Case], options: argparse.Namespace
) -> int:
    """Run and print; return how many cases failed."""
    outcomes = []
    async for outcome in _run(target, chosen, options):
        outcomes.append(outcome)
        if not options.json:
            case = outcome.case
            print(f"{case.id:4} {outcome.result:4}  {case.title}: {outcome.seen}", flush=True)
    failed = [outcome for outcome in outcomes if outcome.result is registry.Result.FAIL]
    if options.json:
        print(json.dumps([_plain(outcome) for outcome in outcomes], indent=2))
    else:
        passed = sum(outcome.result is registry.Result.PASS for outcome in outcomes)
        skipped = len(outcomes) - passed - len(failed)
        print(f"{passed} passed, {len(failed)} failed, {skipped} not judged")
    return len(failed)


def _plain(outcome: registry.Outcome) -> dict[str, str]:
    case = outcome.case
    return {
        "case": case.id,
        "priority": case.priority,
        "title": case.title,
        "result": outcome.result.lower(),
        "seen": outcome.seen,
    }


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, print; return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    chosen = _chosen(parser, options.case)
    if options.list:
        for case in chosen:
            print(f"{case.id:4} {case.priority}  {case.title}")
        return 0
    target = _target(parser, options)
    with target.listener:
        return 1 if asyncio.run(_report(target, chosen, options)) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        # The reader of the report has left; without this the interpreter's last flush complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit("python -m tests.relay: interrupted before the last case")
