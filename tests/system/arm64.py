"""Prove the arm64 package without an arm64 machine.

arm64.py ARM64.deb AMD64.deb OUT.json

Each package goes into a Debian of its own architecture, arm64 emulated by qemu; there
a real Mosquitto and the daemon answer the example cases of `home`. Both must say the
same. Emulation proves function, never speed.
"""

# ruff: noqa: T201  a script that reports
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from container import check_possible, in_memory, make_root

TOLERANCE = 1e-3
ASK = Path(__file__).with_name("ask_cases.py")


def answers(package: Path, folder: Path) -> dict[str, Any]:
    """Install a package into a new Debian and let it answer; the results by text."""
    [arch, depends] = (field(package, name) for name in ("Architecture", "Depends"))
    needed = sorted({part.split()[0] for part in depends.split(",")})
    root = folder / arch
    make_root(root, [*needed, "mosquitto"], f"--arch={arch}")
    shutil.copy(package, root / "package.deb")
    shutil.copy(ASK, root / "ask_cases.py")
    inside(root, "apt-get", "install", "-y", "--no-install-recommends", "/package.deb")
    inside(root, "slm-agent", "check")
    inside(root, "python3", "/ask_cases.py", "/answers.json")
    answered: dict[str, Any] = json.loads((root / "answers.json").read_text("utf-8"))
    return answered


def field(package: Path, name: str) -> str:
    """Return a field of a package."""
    command = ["dpkg-deb", "-f", package, name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def inside(root: Path, *command: str) -> None:
    """Run a command in a root folder, with a network and processes of its own.

    No /sys: the host's tells of another processor than the emulated one, and
    onnxruntime, which believes it, would crash.
    """
    steps = (
        "ip link set lo up",
        shlex.join(["mount", "-t", "proc", "proc", str(root / "proc")]),
        f"exec {shlex.join(['chroot', str(root), *command])}",
    )
    subprocess.run(
        [
            *("unshare", "--net", "--pid", "--mount", "--fork", "--kill-child"),
            *("sh", "-c", " && ".join(steps)),
        ],
        check=True,
        stdin=subprocess.DEVNULL,
        env={"PATH": "/usr/sbin:/usr/bin", "DEBIAN_FRONTEND": "noninteractive"},
    )


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Return what two results of one text do not agree on."""
    found = [
        f"{key}: {ours[key]!r}, {theirs[key]!r}"
        for key in ("status", "by", "label", "reason", "model")
        if ours[key] != theirs[key]
    ]
    spans, others = (
        [(e["label"], e["text"], e["start"], e["end"]) for e in said["entities"]]
        for said in (ours, theirs)
    )
    if spans != others:
        return [*found, f"entities: {spans}, {others}"]
    if apart(ours, theirs) > TOLERANCE:
        found.append(f"scores: {ours}, {theirs}")
    return found


def apart(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """Return the largest difference of the scores of two results."""
    pairs = [(ours, theirs), *zip(ours["entities"], theirs["entities"], strict=False)]
    # As they are published: with four digits.
    return max(round(abs((a["score"] or 0) - (b["score"] or 0)), 4) for a, b in pairs)


def main(arm64: Path, amd64: Path, out: Path) -> int:
    """Compare two packages; return the exit status."""
    check_possible()
    with (
        tempfile.TemporaryDirectory(prefix="slm-arm64-") as folder,
        in_memory(Path(folder) / "memory") as memory,
    ):
        emulated, native = (answers(deb, memory) for deb in (arm64, amd64))
    wrong = 0
    most = 0.0
    for text, result in emulated["results"].items():
        there = native["results"][text]
        found = differences(result, there)
        wrong += bool(found)
        most = max(most, apart(result, there))
        word = "differs" if found else "same"
        print(f"{word:8}{apart(result, there):.4f}  {result['label']:24}{text}")
        for line in found:
            print(f"{'':8}{line}")
    same = emulated["results"].keys() == native["results"].keys()
    figures = {
        "cases": len(emulated["results"]),
        "differ": wrong,
        "scores_apart_most": most,
        "emulated": emulated["versions"],
        "native": native["versions"],
    }
    out.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    print(json.dumps(figures, indent=2))
    return 0 if same and not wrong else 1


if __name__ == "__main__":
    sys.exit(main(*(Path(argument) for argument in sys.argv[1:])))
