"""Ask the advisory service of PyPI about the libraries in the package.

Exit status 1 if one has a known weakness. Where the service does not answer, as without
a network, one line says so, and the status is 0: nothing was found, nor looked at.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCK = Path(__file__).with_name("requirements.txt")
PATIENCE_S = 120


def asked() -> list[dict[str, Any]]:
    """Return what the service says of each library; empty where it does not answer."""
    command = [
        *(sys.executable, "-m", "pip_audit", "--requirement", str(LOCK)),
        *("--no-deps", "--disable-pip", "--format", "json"),
        *("--progress-spinner", "off", "--timeout", "10"),
    ]
    try:
        said = subprocess.run(
            command, capture_output=True, timeout=PATIENCE_S, check=False
        )
        found: list[dict[str, Any]] = json.loads(said.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return []
    return found


def report(libraries: list[dict[str, Any]]) -> tuple[list[str], bool]:
    """Return lines for people, and whether any library has a known weakness."""
    known = [each for each in libraries if "vulns" in each]
    weak = [(each, one) for each in known for one in each["vulns"]]
    lines = [
        f"{each['name']} {each['version']}: {one['id']}, "
        f"fixed in {', '.join(one['fix_versions']) or 'no version'}"
        for each, one in weak
    ]
    if not known:
        return ["libraries not audited: the advisory service does not answer"], False
    missing = len(libraries) - len(known)
    more = f", {missing} unknown to the service" if missing else ""
    lines.append(f"{len(known)} libraries audited, {len(weak)} weaknesses{more}")
    return lines, bool(weak)


def main() -> None:
    """Audit, and say what came of it."""
    lines, weak = report(asked())
    print("\n".join(lines))
    sys.exit(weak)


if __name__ == "__main__":
    main()
