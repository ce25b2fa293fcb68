"""Run Mosquitto and the installed daemon, ask the cases of `home`: ask_cases.py OUT.

Runs inside the Debian that arm64.py made, with nothing but the package.
"""

import json
import platform
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, "/usr/lib/slm-agent")

import onnxruntime
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

CASES = Path("/etc/slm-agent/pipelines/home.cases.jsonl")
CONFIG = Path("/tmp/agent.toml")  # noqa: S108  a root folder of our own
DEADLINE_S = 600  # emulated, a second takes a minute


def main(out: Path) -> None:
    """Ask all cases, and write what came."""
    texts = [json.loads(line)["text"] for line in CASES.read_text("utf-8").splitlines()]
    CONFIG.write_text('[device]\nid = "pi-3"\n[state]\ndir = "/tmp"\n', "utf-8")
    programs = (
        ["mosquitto", "-p", "1883"],
        ["slm-agent", "run", "--config", str(CONFIG)],
    )
    started = [subprocess.Popen(program) for program in programs]
    try:
        results = ask(texts)
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(60)
    versions = {
        "machine": platform.machine(),
        "processor": processor(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "model": results[texts[0]]["model"],
    }
    document = {"versions": versions, "results": results}
    out.write_text(json.dumps(document, ensure_ascii=False), "utf-8")


def processor() -> str | None:
    """Return what the kernel calls the processor: the host's, where it is emulated."""
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return None


def ask(texts: list[str]) -> dict[str, Any]:
    """Send each text when the last is answered; return the results by text."""
    results: dict[str, Any] = {}
    answered, online = threading.Event(), threading.Event()

    def heard(client: paho.Client, data: object, message: paho.MQTTMessage) -> None:
        del client, data
        if message.topic.endswith("/status"):
            if message.payload == b"online":
                online.set()
            return
        result = json.loads(message.payload)
        results[texts[int(result["topic"].split("/")[1])]] = result
        answered.set()

    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_message = heard
    client.on_connect = lambda *_: client.subscribe(
        [("slm/pi-3/status", 1), ("slm/pi-3/result/home", 1)]
    )
    client.connect_async("127.0.0.1")
    client.loop_start()
    assert online.wait(DEADLINE_S), "the daemon does not come"
    for number, text in enumerate(texts):
        answered.clear()
        client.publish(f"home/{number}/utterance", text, qos=1)
        assert answered.wait(DEADLINE_S), f"not answered: {text}"
    client.loop_stop()
    return results


if __name__ == "__main__":
    main(Path(sys.argv[1]))
