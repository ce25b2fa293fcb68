"""What arrives goes to whoever it is for, and is in hand until it has ended."""

import asyncio
from collections.abc import Callable, Sequence

from agent.core.types import Message
from agent.inference.engine import Engine, WorkItem
from agent.inference.pipeline import Pipeline
from agent.mqtt.backlog import Admission, Backlog
from agent.mqtt.link import Link
from agent.telemetry.counters import Counters


class Intake:
    """Owns what is in hand."""

    def __init__(
        self,
        backlog: Backlog,
        link: Link,
        engine: Engine,
        pipelines: Sequence[Pipeline],
        counters: Counters,
        others: Sequence[Callable[[Message], bool]],
    ) -> None:
        """`others` take what is no text for a pipeline, and say whether they did."""
        self._backlog = backlog
        self._link = link
        self._engine = engine
        self._pipelines = pipelines
        self._counters = counters
        self._others = others
        self._closed = False
        self.idle = asyncio.Event()
        self.idle.set()

    def close(self) -> None:
        """Take nothing any more: unacknowledged, it comes again at our next start."""
        self._closed = True

    def arrived(self, message: Message) -> None:
        """Hand a message on."""
        if self._closed or any(takes(message) for takes in self._others):
            return
        self._counters.received += 1
        filters = self._link.filters_of(message)
        wanted = tuple(p for p in self._pipelines if p.wants(message, filters))
        if not wanted:
            self._counters.unrouted += 1  # a subscription of an earlier configuration
            message.ack()
            return
        for pipeline in wanted:
            self._counters.heard[pipeline.name] = message.arrived
        if self._backlog.admit(message) is Admission.TAKEN:
            self.idle.clear()
            self._engine.put(WorkItem(message, wanted))

    def done(self, message: Message) -> None:
        """Let a message go."""
        if self._backlog.done(message) and not self._closed:
            self._link.fetch_again(self._backlog.overrun_epoch)
        if self._backlog.messages == 0:
            self.idle.set()
