"""How to start another Python process that finds the same libraries."""

import os
import sys
from collections.abc import Mapping

# -P: do not import modules from the current folder.
PYTHON = (sys.executable, "-P")


def environment() -> Mapping[str, str]:
    """Return the environment for a child that must find the libraries of this process.

    The Debian package keeps them in a folder that only its start script knows.
    """
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
