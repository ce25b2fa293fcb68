"""How long `slm-agent fleet check`, `show` and `diff` take with 500 devices.

Each is run as at a desk, in a process of its own, the start of Python included.
`cpu_s` is what the processor worked for it, however busy the machine was.

Run: .venv/bin/python bench/fleet.py --out bench/results/fleet-$(uname -m).json
Needs the tests beside it: the fleet is that of tests/unit/fleets.py.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median
from typing import Any

from soak import machine

from harness.fleets import TOML, inventory

DEVICES = 500
ROUNDS = 7
COMMANDS = {
    "check": ("check", "fleet.toml"),
    "show": ("show", "fleet.toml", "--device", f"pi-{DEVICES - 1}"),
    "diff": ("diff", "fleet.toml", "new.toml"),
}


def written(folder: Path) -> None:
    """Write a fleet file, its list of devices, and a newer version of it."""
    (folder / "devices.jsonl").write_text(inventory(DEVICES), "utf-8")
    (folder / "fleet.toml").write_text(TOML, "utf-8")
    new = TOML.replace("version = 7", "version = 8").replace("plant/", "plants/")
    (folder / "new.toml").write_text(new, "utf-8")


def seconds(folder: Path, words: tuple[str, ...]) -> tuple[float, float]:
    """Run a command once; return how long it took, and the processor's time."""
    command = [sys.executable, "-m", "agent", "fleet", *words]
    began, worked = time.perf_counter(), worked_s()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began, worked_s() - worked


def worked_s() -> float:
    """Return the processor's time for all the commands so far, in seconds."""
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure() -> dict[str, Any]:
    """Return the times of each command; they take turns, so that load falls on all."""
    load = round(os.getloadavg()[0], 2)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written(folder)
        for _ in range(ROUNDS):
            for command, words in COMMANDS.items():
                times[command].append(seconds(folder, words))
    return {
        "machine": machine() | {"load_before": load},
        "devices": DEVICES,
        "rounds": ROUNDS,
        **{
            command: {
                "s_median": round(median(took for took, _ in found), 2),
                "s_most": round(max(took for took, _ in found), 2),
                "cpu_s_median": round(median(worked for _, worked in found), 2),
            }
            for command, found in times.items()
        },
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    found = json.dumps(measure(), indent=1)
    print(found)
    if options.out:
        options.out.write_text(found + "\n", "utf-8")


if __name__ == "__main__":
    main()
