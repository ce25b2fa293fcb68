"""What every process of ours that lasts does alike: the daemon, and the broker side.

It takes signals, runs one service after another, reloads, feeds systemd's watchdog
while the work moves on, ends for a bug in a callback, and says goodbye.
"""

import asyncio
import ctypes
import gc
import signal
import time
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import structlog

from agent.core.errors import ConfigError, Undelivered, Unready
from agent.core.systemd import notify, watchdog_interval
from agent.mqtt.connection import Connection
from agent.mqtt.link import Link
from agent.mqtt.subscriptions import obsolete, write_down

PARTING_S = 2.0  # for the last words
M_MMAP_THRESHOLD = -3  # malloc.h of glibc
LARGE_BLOCK = 2**20  # bytes; larger ones go back to the system when they are free

T = TypeVar("T")
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Supervision:
    """What was asked of the process: to end, and to reload.

    A reload is asked for until somebody begins it, so that none is lost while one
    service makes room for the next.
    """

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    hangup: asyncio.Event = field(default_factory=asyncio.Event)


@contextmanager
def signals(supervision: Supervision) -> Iterator[None]:
    """Take SIGTERM, SIGINT and SIGHUP while the context lasts."""
    loop = asyncio.get_running_loop()
    events = {
        signal.SIGTERM: supervision.stop,
        signal.SIGINT: supervision.stop,
        signal.SIGHUP: supervision.hangup,
    }
    for number, event in events.items():
        loop.add_signal_handler(number, event.set)
    try:
        yield
    finally:
        for number in events:
            loop.remove_signal_handler(number)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # by default it would end us


async def one_after_another(
    supervision: Supervision,
    begin: Callable[[], T],
    run: Callable[[T], Awaitable[T | None]],
    instead: Callable[[T, ConfigError | Unready], T],
) -> T | None:
    """Run one after another until none follows or the process is told to stop.

    `begin` makes the first, and `run` returns what follows. What cannot run raises
    ConfigError or Unready; then `instead` says what runs in its place, or raises.
    Returns what did not run any more. Nothing here holds on to what has run.
    """
    give_large_blocks_back()
    following: T | None = begin()
    while following is not None and not supervision.stop.is_set():
        begun = following
        try:
            following = await run(begun)
        except (ConfigError, Unready) as error:
            following = instead(begun, error)
        del begun
        give_back_memory()
    return following


class Service(Protocol):
    """What runs by one configuration."""

    @property
    def in_hand(self) -> int:
        """How many messages have come and not ended."""

    def jobs(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """Return what is done all the while, each until cancelled, by names."""

    def exposed(self) -> AbstractContextManager[None]:
        """Serve metrics while the context lasts."""

    async def reload(self) -> None:
        """Open everything anew, and let it take over; raises ConfigError."""

    def hung(self) -> Sequence[str]:
        """Name the parts that do not move on though they could."""

    async def finish(self) -> None:
        """Stop taking, finish what is in hand, say goodbye."""


class Lifetime(Generic[T]):
    """Owns how a service ends: as it is told, for another, or by a bug."""

    def __init__(self, supervision: Supervision) -> None:
        """Begin one that goes on until then."""
        self.following: T | None = None  # what takes over
        self._supervision = supervision
        self._over = asyncio.Event()
        self._bug: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def stopped(self) -> bool:
        """Whether the process is told to end."""
        return self._supervision.stop.is_set()

    async def until_stopped(self) -> None:
        """Wait until the process is told to end."""
        await self._supervision.stop.wait()

    def make_room(self, following: T, after_s: float = 0.0) -> None:
        """Let something else take over, a moment later."""
        self.following = following
        asyncio.get_running_loop().call_later(after_s, self._over.set)

    def reload_again(self) -> None:
        """Leave a reload to what takes over."""
        self._supervision.hangup.set()

    async def serve(self, service: Service) -> T | None:
        """Run a service to its end; return what is to run instead, if anything is."""
        asyncio.get_running_loop().set_exception_handler(self._failed)
        jobs = {
            "bugs": self._bugs(),
            "stop": self._stops(),
            "reload": self._reloads(service),
            "watchdog": feed_watchdog(service.hung),
            **service.jobs(),
        }
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job, name=name) for name, job in jobs.items()]
            with service.exposed():
                await self._over.wait()
                if self.stopped:
                    notify("STOPPING=1")
                log.info("stopping", in_hand=service.in_hand)
                await service.finish()
            for task in tasks:
                task.cancel()
        return self.following

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Let a bug in a callback end the process, as it would in a task."""
        error = context.get("exception")
        if "handle" in context and error and not self._bug.done():
            self._bug.set_exception(error)
        else:
            loop.default_exception_handler(context)

    async def _bugs(self) -> None:
        await self._bug

    async def _stops(self) -> None:
        await self.until_stopped()
        self._over.set()

    async def _reloads(self, service: Service) -> None:
        """Reload on SIGHUP; what cannot be meant is refused, and we go on as before."""
        hangup = self._supervision.hangup
        while self.following is None:
            await hangup.wait()
            hangup.clear()
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                await service.reload()
            except ConfigError as error:
                notify(f"READY=1\nSTATUS=reload refused: {one_line(error)}")


async def feed_watchdog(hung: Callable[[], Sequence[str]]) -> None:
    """Feed systemd's watchdog while nothing hangs; a hung event loop does not."""
    pause = watchdog_interval()
    while pause:
        parts = hung()
        if parts:
            log.error("stalled", parts=", ".join(parts))
        else:
            notify("WATCHDOG=1")
        await asyncio.sleep(pause)


async def keep_subscriptions(
    connection: Connection,
    folder: Path,
    filters: Sequence[str],
    refused: Collection[str] = (),
) -> str:
    """Take back what an earlier configuration subscribed to; raises Undelivered.

    `folder` is where that is remembered, and what of `filters` was not `refused`.
    Return what an alert says of the file there, if it was damaged.
    """
    gone, damage = obsolete(folder, filters)
    await connection.unsubscribe(gone)
    try:
        write_down(folder, set(filters) - set(refused))
    except OSError as error:
        log.warning("subscriptions_not_written_down", why=str(error))
    return damage


async def say_offline(link: Link, topic: str) -> None:
    """Say what our last will would; raises Undelivered."""
    if link.connected:
        connection = await link.connection()
        await (await connection.publish(topic, b"offline", retain=True))


async def part(say: Callable[[], Awaitable[None]], *links: Link) -> None:
    """Say goodbye and disconnect; where it is not heard, our last wills say it."""
    try:
        async with asyncio.timeout(PARTING_S):
            await say()
    except (Undelivered, TimeoutError) as error:
        log.warning("offline_not_said", why=str(error))
        for link in links:
            link.hang_up()
    await asyncio.gather(*(link.close() for link in links))


def give_large_blocks_back() -> None:
    """Let no message of megabytes make the process larger for good.

    glibc learns from the first large block that is freed to keep such blocks; with a
    fixed threshold it does not.
    """
    with suppress(AttributeError, OSError):  # only glibc has it
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


def give_back_memory() -> None:
    """Free the service that made room, and above all its models.

    Its parts refer to each other. The collector alone would free them after thousands
    of messages, with a set of models more for each reload until then; and the C library
    would keep what is freed.
    """
    asyncio.get_running_loop().set_exception_handler(None)  # it was the service's
    gc.collect()
    with suppress(AttributeError, OSError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def one_line(error: Exception) -> str:
    """Return an error in one line."""
    return "; ".join(str(error).splitlines())
