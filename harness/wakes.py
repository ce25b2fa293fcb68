"""How often a process is woken, as Linux counts it."""

import time
from collections import Counter
from pathlib import Path

from harness.stage import DEADLINE_S

WATCHED_S = 10.0
AT_MOST = 2  # once in five seconds
KEEPALIVE = "keepalive_s = 3600\n"  # of [mqtt]: its own timer is not what we look at


def switches(pid: int) -> Counter[str]:
    """Return how often each thread went to sleep so far, by number and name."""
    found: Counter[str] = Counter()
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        lines = dict(line.split(":\t", 1) for line in status.read_text().splitlines())
        name = f"{lines['Pid']} {lines['Name']}"
        found[name] = int(lines["voluntary_ctxt_switches"])
    return found


def wakes(pid: int) -> Counter[str]:
    """Return how often threads were woken while we watched.

    We watch anew until all is quiet: what was begun before comes to its end, and what
    is done every half minute (health, a look at the outbox) takes more than one wake.
    """
    limit = time.monotonic() + DEADLINE_S
    while True:
        before = switches(pid)
        time.sleep(WATCHED_S)
        found = switches(pid) - before
        if found.total() <= AT_MOST or time.monotonic() > limit:
            return found
