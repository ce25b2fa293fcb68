"""A model's library that hangs for good: not even a cancellation ends it."""

import asyncio
from contextlib import suppress


async def ask(*_: object) -> None:
    """Take the place of `llm.ask`, and never return."""
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
