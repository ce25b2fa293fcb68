"""How this Python is started again, and how an extra is installed into it."""

import json
import os
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from urllib.parse import unquote, urlsplit

# -P: do not import modules from the current folder.
PYTHON = (sys.executable, "-P")


def environment() -> Mapping[str, str]:
    """Return the environment for a child that must find the libraries of this process.

    The Debian package keeps them in a folder that only its start script knows.
    """
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def pip_install(extra: str) -> str:
    """Return the command that installs an extra, from where slm-agent itself came.

    slm-agent is on no package index. pip notes the path or address that it installed
    from (PEP 610). Without such a note, as in the Debian package, it takes a checkout.
    """
    try:
        note = distribution("slm-agent").read_text("direct_url.json")
    except PackageNotFoundError:
        note = None
    origin = json.loads(note) if note else {}
    if origin.get("dir_info", {}).get("editable"):
        return f"pip install -e '{unquote(urlsplit(origin['url']).path)}[{extra}]'"
    if origin:
        return f"pip install 'slm-agent[{extra}] @ {origin['url']}'"
    return f"pip install '.[{extra}]' in a checkout of slm-agent"
