"""Which event loop commands run on."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def run(main_task: Coroutine[Any, Any, _Result]) -> _Result:
    """Run on uvloop where there is one, else on asyncio's own loop. Returns its result."""
    try:
        try:
            import uvloop  # noqa: PLC0415  # absent on some platforms
        except ModuleNotFoundError:
            return asyncio.run(main_task)
        else:
            return uvloop.run(main_task)
    finally:
        main_task.close()  # if no loop could be made, `main` has not begun
