"""Write what the command line says of itself: man pages, and completion for bash.

pages.py FOLDER VERSION DATE: man pages into FOLDER/man, completion into FOLDER/bash.
"""

import sys
from pathlib import Path

from click.shell_completion import BashComplete
from click_man.core import write_man_pages

from agent.cli.main import cli

NAME = "slm-agent"


def main(folder: Path, version: str, date: str) -> None:
    """Write all; `date` as YYYY-MM-DD, so that the same commit gives the same bytes."""
    man, bash = folder / "man", folder / "bash"
    man.mkdir(parents=True)
    bash.mkdir()
    write_man_pages(NAME, cli, version=version, target_dir=str(man), date=date)
    completion = BashComplete(cli, {}, NAME, "_SLM_AGENT_COMPLETE")
    (bash / NAME).write_text(completion.source(), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
