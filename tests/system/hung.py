"""The daemon with a model that hangs, once: for the test of the watchdog."""

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, "/usr/lib/slm-agent")

import agent.daemon.watchdog
import agent.inference.engine
from agent.cli.main import main
from agent.core.types import Decision
from agent.inference.engine import TextTask

HUNG = Path("/var/lib/slm-agent/hung")

answer = agent.inference.engine.answer


def hang_once(jobs: Sequence[TextTask]) -> list[Decision]:
    """Answer, unless it is the text that hangs, and for the first time."""
    if any(job.text.text == "hang" for job in jobs) and not HUNG.exists():
        HUNG.touch()
        threading.Event().wait()
    return answer(jobs)


agent.inference.engine.answer = hang_once
agent.daemon.watchdog.STALL_S = 2.0  # a test does not wait for a minute
main()
