"""What tests of sources have in common."""

import pytest

from kproxy.sources.files import manifests

LONG = 60.0


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread of a busy machine counts as one that a hung file system holds up.

    Tests of hung file systems set times of their own.
    """
    monkeypatch.setattr(manifests, "PATIENCE_SECONDS", LONG)
    monkeypatch.setattr(manifests, "START_PATIENCE_SECONDS", LONG)
