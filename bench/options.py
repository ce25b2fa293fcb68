"""Which ONNX Runtime options suit a device? Prints a table for the bundle `home`.

Run: .venv/bin/python bench/options.py
Ratios matter, not milliseconds: each row runs in a process of its own.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 6
CASES = {
    "as shipped": {},
    "2 threads": {"threads": 2},
    "2 threads, spinning": {"threads": 2, "spin": "1"},
    "arena": {"arena": True},
    "arena and memory pattern": {"arena": True, "pattern": True},
    "no prepacking": {"prepack": "1"},
}


def measure(case: dict[str, object]) -> dict[str, float]:
    """Time the sample texts one by one, then the memory before and after a long one."""
    import onnxruntime

    from agent.cli.demo_session import read_messages
    from agent.config.section import shipped
    from agent.inference import encoder, onnx
    from agent.inference.bundle import open_bundle

    def opened(path: Path, _threads: int) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = case.get("threads", 1)
        options.enable_cpu_mem_arena = case.get("arena", False)
        options.enable_mem_pattern = case.get("pattern", False)
        spin = str(case.get("spin", "0"))
        options.add_session_config_entry("session.intra_op.allow_spinning", spin)
        prepack = str(case.get("prepack", "0"))
        options.add_session_config_entry("session.disable_prepacking", prepack)
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(str(path), options)

    onnx.open_session = encoder.open_session = opened  # the one thing that varies
    bundle = open_bundle(shipped("models") / "home", 1)
    texts = read_messages(None)
    bundle.predict(texts[:8])
    wall, cpu = time.perf_counter(), time.process_time()
    for text in texts * ROUNDS:
        bundle.predict([text])
    count = len(texts) * ROUNDS
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    # A device is idle between messages: does the runtime let it be?
    idle = time.process_time()
    for text in texts:
        bundle.predict([text])
        time.sleep(0.02)
    idle = time.process_time() - idle
    before = _rss_mb()
    long_text = " and then ".join(texts * 3)
    bundle.predict([long_text])
    return {
        "ms": round(wall / count * 1000, 2),
        "cpu_ms": round(cpu / count * 1000, 2),
        "cpu_ms_with_pauses": round(idle / len(texts) * 1000, 2),
        "rss_mb": before,
        "rss_mb_after_long": _rss_mb(),
    }


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return round(pages * 4096 / 2**20, 1)


def main() -> None:
    """Run every case in a process of its own and print the table."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(CASES[sys.argv[1]])))
        return
    print(f"{'options':28}{'ms':>7}{'cpu':>7}{'cpu, pauses':>13}{'MB':>8}{'long':>8}")
    for name in CASES:
        done = subprocess.run(
            [sys.executable, __file__, name], capture_output=True, check=True, text=True
        )
        row = json.loads(done.stdout)
        print(
            f"{name:28}{row['ms']:7}{row['cpu_ms']:7}{row['cpu_ms_with_pauses']:13}"
            f"{row['rss_mb']:8}{row['rss_mb_after_long']:8}"
        )


if __name__ == "__main__":
    main()
