"""Which event loop commands run on."""

import asyncio
from collections.abc import Coroutine
from typing import Any


def run(main_task: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop where there is one, else on asyncio's own loop."""
    try:
        try:
            import uvloop  # noqa: PLC0415  # absent on some platforms
        except ModuleNotFoundError:
            asyncio.run(main_task)
        else:
            uvloop.run(main_task)
    finally:
        main_task.close()  # if no loop could be made, `main` has not begun
