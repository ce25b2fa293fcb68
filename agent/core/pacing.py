"""Whose turn it is to ask somebody: no faster than the rate, seldom while they fail.

Who waits for a turn waits in order, and holds nothing that others need.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from agent.core.circuit import Circuit


class Resting(Exception):
    """Nobody is asked now: they fail, and were tried a moment ago."""


class Pacer:
    """Owns the order of calls; its circuit is told what came of them."""

    def __init__(self, rate: float) -> None:
        """`rate`: most calls a second."""
        self.circuit = Circuit()
        self._apart_s = 1 / rate
        self._free_at = -math.inf  # by the rate
        self._order = asyncio.Lock()
        self._in_flight = 0
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def turn(self, *, patient: bool = True) -> AsyncIterator[None]:
        """Wait for a turn, and hold it; say what came of the call before it ends.

        Not `patient`: raises Resting where those who are asked fail.
        """
        async with self._order:
            await asyncio.sleep(self._free_at - time.monotonic())
            await self._admitted(patient=patient)
            self._free_at = time.monotonic() + self._apart_s
            self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1
            self._changed.set()

    async def _admitted(self, *, patient: bool) -> None:
        """Wait until the circuit has room for one more call."""
        while True:
            left = self.circuit.next_at() - time.monotonic()
            if self._in_flight >= self.circuit.room():
                left = math.inf  # until one of them has ended
            if left <= 0:
                return
            if self.circuit.is_failing and not patient:
                raise Resting
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if left == math.inf else left):
                    await self._changed.wait()
