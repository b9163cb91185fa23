"""What to believe after a look at the files."""

import dataclasses
from pathlib import Path

from kproxy.model import admission, names
from kproxy.model.kinds import service_kind
from kproxy.sources import source
from kproxy.sources.files import manifest_files, manifest_state

WEB = b"""
{apiVersion: v1, kind: Service, metadata: {name: web},
 spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}
"""
FILE = manifest_files.ManifestFile(Path("/web.yaml"), "web.yaml", Path("/web.yaml"))


def pause() -> None:
    """Nothing waits."""


def look(*problems: source.Problem, reads: bool) -> manifest_state.Look:
    """A look at one file, which is read, or has not changed."""
    signature = manifest_files.Signature(1, 1, len(WEB), 1, 1)
    reading = manifest_files.judged(WEB, signature, pause, allow_loopback=False)
    return manifest_state.Look(
        [FILE], {FILE.path: reading} if reads else {}, (), (), problems, now=0.0
    )


def test_a_look_that_finds_nothing_new_does_no_work() -> None:
    first = manifest_state.view(manifest_state.NOTHING, look(reads=True), pause)
    assert [each.name.name for each in first.updates] == ["web"]
    second = manifest_state.view(first, look(reads=False), pause)
    assert second.tables is first.tables
    assert (second.updates, second.gone, second.changes) == ((), (), ())
    assert second.problems == first.problems
    assert second.tables[service_kind.KIND.name].keys() == {names.NamespacedName("default", "web")}


def test_a_problem_of_the_look_itself_is_reported_and_goes() -> None:
    first = manifest_state.view(manifest_state.NOTHING, look(reads=True), pause)
    bad = source.Problem(admission.Severity.WARNING, "conf.d", "", "is away", "")
    second = manifest_state.view(first, look(bad, reads=False), pause)
    assert second.fresh_problems == (bad,)
    third = manifest_state.view(second, look(reads=False), pause)
    assert bad not in third.problems
    assert dataclasses.replace(third, of_look=()) == dataclasses.replace(
        first, updates=(), fresh_problems=(), changes=()
    )
