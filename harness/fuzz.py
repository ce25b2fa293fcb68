"""The long fuzzing of `make fuzz`: atheris, each parser in a process of its own.

    python -m harness.fuzz [--runs 100000] [TARGET ...]

What a parser learns lies in build/fuzz/<target> and is used the next time; an input
that finds something goes to tests/fuzz/corpus/<target>, where the suite replays it.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
LEARNT = REPOSITORY / "build" / "fuzz"
CORPUS = REPOSITORY / "tests" / "fuzz" / "corpus"
LIMITS = ["-timeout=10", "-rss_limit_mb=1500", "-max_len=4096", "-detect_leaks=0"]
# Words that no parser meets by chance soon.
TOKENS = [
    "\\xef\\xbb\\xbf",
    "NaN",
    "Infinity",
    "1e999",
    "\\\\ud800",
    "\\xff\\xfe",
    "\\x00",
    "$share/",
    "${x}",
    "$${",
    "[[",
    "]]",
    "'''",
    "0x",
    "+",
    "#",
    "\\xc2\\x80",
    "{}",
    "99999999999999999999",
    "\\x1b[2J",
    "mqtt://",
    "http://",
    "../",
    "unset",
    "null",
]


def main() -> None:
    """Fuzz what is asked for, and say what was found; status 1 if anything was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*")
    arguments, more = parser.parse_known_args()
    if arguments.child:
        fuzz(arguments.targets[0], more)
        return
    names = arguments.targets or sorted(path.name for path in CORPUS.iterdir())
    found = [name for name in names if not lasted(name, arguments.runs)]
    print(f"{len(names)} parsers, {arguments.runs} inputs each: {found or 'nothing'}")
    sys.exit(bool(found))


def lasted(name: str, runs: int) -> bool:
    """Run one target in a process of its own; tell whether it stood everything."""
    learnt = LEARNT / name
    learnt.mkdir(parents=True, exist_ok=True)
    words = LEARNT / "tokens"
    words.write_text("".join(f'"{token}"\n' for token in TOKENS), "utf-8")
    prefix = CORPUS / name / "found-"
    options = [f"-runs={runs}", f"-artifact_prefix={prefix}", f"-dict={words}", *LIMITS]
    begun = time.monotonic()
    child = subprocess.run(
        [
            sys.executable,
            "-m",
            "harness.fuzz",
            "--child",
            name,
            *options,
            *map(str, (learnt, CORPUS / name)),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - begun
    print(f"{name}: status {child.returncode}, {seconds:.0f} s", flush=True)
    if child.returncode:
        print(child.stderr[-4000:], flush=True)
    return child.returncode == 0


def fuzz(name: str, options: list[str]) -> None:
    """Fuzz one target until its runs are over, in this process."""
    import atheris  # noqa: PLC0415  an extra

    with atheris.instrument_imports(include=["agent"]):
        from harness.fuzz_targets import TARGETS  # noqa: PLC0415  instrumented

    [target] = [each for each in TARGETS if each.name == name]
    atheris.Setup([name, *options], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
