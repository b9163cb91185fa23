"""One kproxy has the local portal of a network namespace."""

import os
import socket

import pytest

from kproxy import errors
from kproxy.portal.local import only_one

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root, for a network namespace that no other test uses"
)


def test_a_second_one_is_told_who_has_it() -> None:
    first, second = only_one.OnlyOne(), only_one.OnlyOne()
    first.take()
    with pytest.raises(errors.KproxyError, match=r"another kproxy serves .* stop it first"):
        second.take()
    first.give_back()
    second.take()
    second.give_back()


def test_it_can_be_given_back_twice() -> None:
    lock = only_one.OnlyOne()
    lock.give_back()
    lock.take()
    lock.give_back()
    lock.give_back()


def test_a_name_that_another_user_took_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.bind(only_one._NAME)
        stranger.listen(1)
        monkeypatch.setattr(only_one, "_ROOT", -1)
        monkeypatch.setattr("os.geteuid", lambda: -2)
        lock = only_one.OnlyOne()
        lock.take()
        lock.give_back()
