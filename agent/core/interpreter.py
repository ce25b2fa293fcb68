"""Another Python like this one, that finds the same libraries."""

import os
import sys
from collections.abc import Mapping

# -P: what lies in the current folder is no library of ours.
PYTHON = (sys.executable, "-P")


def environment() -> Mapping[str, str]:
    """Return the environment of a child that is to import what we can.

    The program of Debian's package alone knows where its libraries are.
    """
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
