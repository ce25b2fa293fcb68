"""`slm-agent bench`: what this machine does with the `home` pipeline."""

import asyncio
import os
import platform
import re
import shutil
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from agent.cli import embedded
from agent.cli.demo_session import ANSWER_S, read_messages
from agent.cli.embedded import Answer, Asker, asking, daemon
from agent.config.load import load
from agent.inference.pipeline import Pipeline, open_pipelines
from agent.telemetry.counters import percentiles

ROUND_TRIPS = 300
REPEATS = 10


async def run(burst: int) -> dict[str, dict[str, Any]]:
    """Measure model and daemon; `burst` is how many messages are published at once."""
    texts = read_messages(None)
    [pipeline] = open_pipelines(load(None, enable=("home",)))
    figures = {"machine": _machine(), "model": _model(pipeline, texts)}
    with tempfile.TemporaryDirectory(prefix="slm-agent-bench-") as name:
        folder = Path(name)
        mosquitto = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
        broker = embedded.mosquitto if mosquitto else embedded.nats
        figures["machine"]["broker"] = "mosquitto" if mosquitto else "nats"
        async with broker(folder) as port:
            began = time.perf_counter()
            spoken = "5" if mosquitto else '"3.1.1"'
            async with daemon(folder, port, spoken) as process:
                started = time.perf_counter() - began
                figures["daemon"] = await _daemon(port, process.pid, texts, burst)
                figures["daemon"]["start_to_ready_s"] = round(started, 3)
    return figures


def _machine() -> dict[str, Any]:
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        cpuinfo = ""
    model = re.search(r"^(?:model name|Model)\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "arch": platform.machine(),
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
    }


def _model(pipeline: Pipeline, texts: list[str]) -> dict[str, Any]:
    """Time the cascade alone, one text at a time, as it always reads."""
    pipeline.answer(texts[:16])
    times = []
    for text in texts * REPEATS:
        started = time.perf_counter()
        pipeline.answer([text])
        times.append(time.perf_counter() - started)
    p50, p99 = percentiles([seconds * 1000 for seconds in times])
    return {
        "bundle": pipeline.bundle.id,
        "texts_per_s": round(len(times) / sum(times)),
        "ms_p50": p50,
        "ms_p99": p99,
    }


async def _daemon(port: int, pid: int, texts: list[str], burst: int) -> dict[str, Any]:
    async with asking(port) as asker:
        idle = await _round_trips(asker, texts)
        loaded = await _burst(asker, texts, burst)
    return {**idle, **loaded, "rss_mb": _resident_mb(pid)}


async def _round_trips(asker: Asker, texts: list[str]) -> dict[str, Any]:
    """Time publisher -> broker -> daemon -> broker -> subscriber, one at a time.

    What the daemon and the brokers' two hops add is the round trip less the model.
    """
    trips = []
    added = []
    for number in range(ROUND_TRIPS):
        began = time.perf_counter()
        router = asyncio.ensure_future(asker.ask(number, texts[number % len(texts)]))
        _, answer = await _heard(asker)
        trip = (time.perf_counter() - began) * 1000
        await router
        trips.append(trip)
        added.append(trip - answer["ms"]["predict"])
    p50, p99 = percentiles(trips)
    return {
        "round_trip_ms_p50": p50,
        "round_trip_ms_p99": p99,
        "added_to_model_ms_p50": round(median(added), 3),
    }


async def _burst(asker: Asker, texts: list[str], size: int) -> dict[str, Any]:
    began = time.perf_counter()

    async def publish() -> None:
        for number in range(size):
            await asker.send(number, texts[number % len(texts)])

    async with asyncio.TaskGroup() as group:
        group.create_task(publish(), name="publish")
        for _ in range(size):
            await _heard(asker)
    return {
        "burst_messages": size,
        "burst_messages_per_s": round(size / (time.perf_counter() - began)),
    }


async def _heard(asker: Asker) -> Answer:
    """Return the next answer; raises TimeoutError where none comes."""
    async with asyncio.timeout(ANSWER_S):
        return await asker.answer()


def _resident_mb(pid: int) -> float | None:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    except OSError:
        return None
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)
