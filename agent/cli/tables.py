"""Tables for people: with rich where it is installed, plain where it is not."""

import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec

PLAIN_WIDTH = 60  # of a column
UNBOUND_WIDTH = 160  # where there is no terminal


def columns() -> int:
    """Return how wide a table may be."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else UNBOUND_WIDTH


def show(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    if find_spec("rich") is None:
        sys.stdout.write(plain(headings, rows))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console(width=columns()).print(table)


def plain(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of aligned columns."""
    lines = [headings, *rows]
    widths = [
        min(PLAIN_WIDTH, max(len(line[column]) for line in lines))
        for column in range(len(headings))
    ]
    return "".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        + "\n"
        for line in lines
    )
