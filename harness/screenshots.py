"""Make the pictures of the documentation: `python -m harness.screenshots`.

What the commands print on a terminal of 100 columns, as SVG in docs/images. Devices of
`top` are made up and published to a Mosquitto of our own.
"""

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from contextlib import closing, suppress
from pathlib import Path

from rich.console import Console
from rich.text import Text

from harness.stage import REPOSITORY, Client, Mosquitto

COLUMNS, LINES = 100, 26
PICTURES = REPOSITORY / "docs" / "images"
DEVICES = (
    ("hall", "online", {"received": 5120, "percent_local": 91.2, "ms_p99": 8.5}),
    ("kitchen", "online", {"received": 18240, "percent_local": 93.0, "ms_p99": 7.9}),
    (
        "line-3",
        "online",
        {"received": 702, "percent_local": 64.1, "ms_p99": 11.2}
        | {"alerts": ["upstream_gone"], "outbox": {"waiting": 31}},
    ),
    ("porch", "offline", {"received": 88, "percent_local": 88.6, "ms_p99": 21.0}),
    ("ward-7", "online", {"received": 2210, "percent_local": 90.4, "ms_p99": 9.1}),
)


def printed(*arguments: str) -> str:
    """Return what a command prints on a terminal, with its colours."""
    master, slave = pty.openpty()
    size = struct.pack("HHHH", LINES, COLUMNS, 0, 0)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
    command = [sys.executable, "-m", "agent", *arguments]
    env = os.environ | {"TERM": "xterm-256color"}
    with subprocess.Popen(command, stdout=slave, cwd=REPOSITORY, env=env):
        os.close(slave)
        written = b""
        with suppress(OSError):  # it has ended
            while some := os.read(master, 65_536):
                written += some
    os.close(master)
    return written.decode("utf-8", "replace")


def picture(name: str, title: str, text: str) -> None:
    """Write the last lines of a text as docs/images/<name>.svg."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    lines = text.rstrip().splitlines()[-LINES:]
    console.print(Text.from_ansi("\n".join(lines)), soft_wrap=True)
    drawn = console.export_svg(title=title, unique_id=name)
    # Whoever reads the documentation fetches no fonts from elsewhere.
    drawn = re.sub(r"@font-face \{.*?\}\n?", "", drawn, flags=re.DOTALL)
    path = PICTURES / f"{name}.svg"
    path.write_text(drawn, "utf-8")
    print(path)


def main() -> None:
    """Make all pictures again."""
    picture("demo", "slm-agent demo", printed("demo", "--once"))
    with tempfile.TemporaryDirectory() as folder:
        broker = Mosquitto(Path(folder) / "broker")
        with closing(broker):
            broker.start()
            with closing(Client(broker.port)) as client:
                for device, status, health in DEVICES:
                    topic = f"slm/{device}"
                    client.send(f"{topic}/status", status, retain=True)
                    client.send(f"{topic}/health", json.dumps(health), retain=True)
                client.wait_acked(2 * len(DEVICES))
            config = Path(folder) / "top.toml"
            config.write_text(f'[mqtt]\nurl = "mqtt://127.0.0.1:{broker.port}"\n')
            text = printed("top", "--once", "--config", str(config))
            picture("top", "slm-agent top", text)


if __name__ == "__main__":
    main()
