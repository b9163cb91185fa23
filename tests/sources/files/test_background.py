"""Calls in threads: what they raise reaches the caller, and no traceback a user."""

import pytest

from kproxy.sources.files import background


async def test_memory_that_is_used_up_in_a_thread_is_the_callers_to_report(
    capfd: pytest.CaptureFixture[str],
) -> None:
    crew: background.Crew[int] = background.Crew(lambda: None)

    def used_up(_: background.Pace) -> int:
        raise MemoryError

    with pytest.raises(MemoryError):
        await crew.run({"a": used_up, "b": lambda _: 1}, 10, is_gentle=True)
    assert await crew.run({"a": lambda _: 2, "b": lambda _: 1}, 10, is_gentle=True) == {
        "a": 2,
        "b": 1,
    }
    assert capfd.readouterr().err == ""
