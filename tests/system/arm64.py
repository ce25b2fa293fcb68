"""Prove the arm64 package without an arm64 machine.

arm64.py ARM64.deb AMD64.deb OUT.json

Each package goes into a Debian of its own architecture, arm64 emulated by qemu; there
a real Mosquitto and the daemon answer the example cases of `home`. Both must say the
same. What the encoders compute must be the same to the bit, on each of several
processors. Emulation proves function, never speed.
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

from harness.container import Missing, check_possible, in_memory, make_root

TOLERANCE = 1e-3
ASK = Path(__file__).with_name("ask_cases.py")
NUMBERS = Path(__file__).with_name("same_numbers.py")
MODELS = "/usr/lib/slm-agent/agent/models"
EMULATORS = {"arm64": "qemu-aarch64-static", "amd64": "qemu-x86_64-static"}
PROCESSORS = {
    "arm64": ("cortex-a53", "cortex-a72", "cortex-a76"),  # of Raspberry Pi 3, 4 and 5
    "amd64": ("Haswell", "EPYC-Rome-v1"),  # without AVX-512
}


def installed(package: Path, folder: Path) -> tuple[str, Path]:
    """Install a package into a new Debian; return its architecture and root folder."""
    [arch, depends] = (field(package, name) for name in ("Architecture", "Depends"))
    needed = sorted({part.split()[0] for part in depends.split(",")})
    root = folder / arch
    make_root(root, [*needed, "mosquitto"], f"--arch={arch}")
    shutil.copy(package, root / "package.deb")
    inside(root, "apt-get", "install", "-y", "--no-install-recommends", "/package.deb")
    inside(root, "slm-agent", "check")
    return arch, root


def answers(root: Path) -> dict[str, Any]:
    """Let an installed package answer; the results by text."""
    shutil.copy(ASK, root)
    inside(root, "python3", f"/{ASK.name}", "/answers.json")
    answered: dict[str, Any] = json.loads((root / "answers.json").read_text("utf-8"))
    return answered


def digests(root: Path, *emulator: str) -> dict[str, str]:
    """Return digests of what the bundles of an installed package compute."""
    shutil.copy(NUMBERS, root)
    script = [f"/{NUMBERS.name}", MODELS, "/digests.json"]
    inside(root, *emulator, "/usr/bin/python3", *script)
    found: dict[str, str] = json.loads((root / "digests.json").read_text("utf-8"))
    return found


def emulation(arch: str, root: Path, processor: str) -> list[str]:
    """Return the start of a command that runs on an emulated processor."""
    emulator = shutil.which(EMULATORS[arch])
    if not emulator:
        raise Missing(f"needs {EMULATORS[arch]}: make arm64 installs it")
    shutil.copy(emulator, root / "emulator")
    return ["/emulator", "-cpu", processor]


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
            "unshare",
            "--net",
            "--pid",
            "--mount",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            " && ".join(steps),
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


def compared(emulated: dict[str, Any], native: dict[str, Any]) -> dict[str, Any]:
    """Print and count how the answers of two packages differ."""
    ours, theirs = emulated["results"], native["results"]
    wrong, most = len(ours.keys() ^ theirs.keys()), 0.0
    for text in ours.keys() & theirs.keys():
        found = differences(ours[text], theirs[text])
        off = apart(ours[text], theirs[text])
        wrong += bool(found)
        most = max(most, off)
        word = "differs" if found else "same"
        print(f"{word:8}{off:.4f}  {ours[text]['label']:24}{text}")
        for line in found:
            print(f"{'':8}{line}")
    return {
        "cases": len(ours),
        "differ": wrong,
        "scores_apart_most": most,
        "emulated": emulated["versions"],
        "native": native["versions"],
    }


def unlike(native: dict[str, str], found: dict[str, str]) -> list[str]:
    """Return the bundles that compute other numbers than here."""
    return sorted({name for name, _ in native.items() ^ found.items()})


def main(arm64: Path, amd64: Path, out: Path) -> int:
    """Compare two packages; return the exit status."""
    check_possible()
    with (
        tempfile.TemporaryDirectory(prefix="slm-arm64-") as folder,
        in_memory(Path(folder) / "memory") as memory,
    ):
        roots = [installed(package, memory) for package in (arm64, amd64)]
        (_, emulated), (_, native) = roots
        figures = compared(answers(emulated), answers(native))
        here = digests(native)
        other = {
            processor: unlike(here, digests(root, *emulation(arch, root, processor)))
            for arch, root in roots
            for processor in PROCESSORS[arch]
        }
    figures |= {"digests": here, "other_numbers_on": other}
    out.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    print(json.dumps(figures, indent=2))
    return 1 if figures["differ"] or any(other.values()) else 0


if __name__ == "__main__":
    sys.exit(main(*(Path(argument) for argument in sys.argv[1:])))
