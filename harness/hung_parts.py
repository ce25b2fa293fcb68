"""What hangs for good: a model's library, a disk; no cancellation ends them."""

import asyncio
import threading
from contextlib import suppress


async def ask(*_: object) -> None:
    """Take the place of `llm.ask`, and never return."""
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


def write(*_: object, **__: object) -> None:
    """Take the place of a write to the disk, and never return."""
    threading.Event().wait()
