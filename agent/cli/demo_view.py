"""What `slm-agent demo` shows: a table for people, or JSON for programs."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from agent.core.errors import ConfigError
from agent.core.interpreter import pip_install
from agent.core.words import printable

SIMULATED = "simulated"  # by what answers in place of an upstream
STATUS_WIDTH = 11  # "dead letter"
WIDTHS = {"by": 9, "score": 5, "ms": 6}
WIDE = 100  # columns, from which entities have a column of their own
HEADINGS = {name: name for name in ("message", "result", "entities", *WIDTHS)}


class JsonView:
    """One JSON object a line: every answer, the summary last."""

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Nothing to open."""
        yield

    def answer(self, text: str, answer: dict[str, Any]) -> None:
        """Print an answer as it came, with its text."""
        self._print({"text": text, **answer})

    def missing(self, text: str) -> None:
        """Say which message got no answer."""
        self._print({"text": text, "status": None, "reason": "no answer"})

    def summary(self, figures: dict[str, Any]) -> None:
        """Print the figures."""
        self._print({"summary": figures})

    def _print(self, value: dict[str, Any]) -> None:
        print(json.dumps(value, ensure_ascii=False), flush=True)  # noqa: T201


class TableView:
    """A table for people, which grows: the status first, and nothing is cut."""

    def __init__(self) -> None:
        """Open the console; raises ConfigError without the extra `demo`."""
        try:
            from rich.console import Console
        except ImportError:
            raise ConfigError(
                f"tables are missing: {pip_install('demo')} (or use --json)"
            ) from None
        self._console = Console(width=None if sys.stdout.isatty() else 120)
        self._heading_due = True

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show that broker and daemon are being started."""
        from rich.status import Status

        with Status("starting broker and daemon ...", console=self._console) as status:
            self._status = status
            yield

    def answer(self, text: str, answer: dict[str, Any]) -> None:
        """Add a row."""
        if self._heading_due:
            self._heading_due = False
            self._status.stop()
            self._row("status", HEADINGS, style="bold")
            self._console.rule(style="dim")
        if "status" not in answer:
            self._row(
                "dead letter", {"message": text, "result": answer["reason"]}, "red"
            )
            return
        resolved = answer["status"] == "resolved"
        label = answer["label"] or ""
        entities = ", ".join(f"{e['label']}={e['text']}" for e in answer["entities"])
        self._row(
            answer["status"],
            {
                "message": text,
                "result": label if resolved else f"{label}? {answer['reason']}",
                "entities": entities,
                "by": SIMULATED if answer["by"] == "upstream" else answer["by"] or "",
                "score": "" if answer["score"] is None else f"{answer['score']:.2f}",
                "ms": f"{answer['ms']['total']:.1f}",
            },
            "green" if resolved else "yellow",
        )

    def missing(self, text: str) -> None:
        """Add a row for a message without an answer."""
        self._row("no answer", {"message": text}, "red")

    def summary(self, figures: dict[str, Any]) -> None:
        """Say what it all came to."""
        share, asked = figures["share_local"], figures["upstream"]
        self._console.rule(style="dim")
        self._console.print(
            f"[b]{figures['messages']} messages[/b], {figures['results']} answers; "
            f"resolved on the device: [b]{0 if share is None else share:.0%}[/b], "
            f"by the simulated upstream {figures['resolved_upstream']}, "
            f"unresolved {figures['unresolved']}, "
            f"dead letters {figures['dead_letters']}; "
            f"on the device p50 {figures['ms_p50']} ms, p99 {figures['ms_p99']} ms"
        )
        if asked["cost_all"] is not None:
            self._console.print(
                f"Upstream is simulated: {asked['calls']} calls. By the list price "
                f"of a small hosted model they had cost ${asked['cost']:.4f}; an "
                f"all-LLM system had spent [b]${asked['cost_all']:.4f}[/b]."
            )
        if not figures["complete"]:
            self._console.print(
                "[red]not every message ended in exactly one final result"
            )

    def _row(self, status: str, cells: Mapping[str, str], style: str) -> None:
        """Print a row; what is too long goes on below, on narrow terminals entities."""
        from rich.table import Table
        from rich.text import Text

        narrow = self._console.width < WIDE
        result, entities = cells.get("result", ""), cells.get("entities", "")
        if narrow and entities:
            result, entities = f"{result}\n{entities}", ""
        table = Table.grid(padding=(0, 1, 0, 0), expand=True)
        table.add_column(width=STATUS_WIDTH, no_wrap=True)
        row = [Text(status, style)]
        for name, words in (
            ("message", cells.get("message", "")),
            ("result", result),
            ("entities", entities),
        ):
            if name != "entities" or not narrow:
                table.add_column(ratio=1, overflow="fold")
                row.append(Text(printable_lines(words)))
        for name, width in WIDTHS.items():
            justify: Literal["left", "right"] = "left" if name == "by" else "right"
            table.add_column(width=width, no_wrap=True, justify=justify)
            row.append(Text(cells.get(name, "")))
        table.add_row(*row)
        self._console.print(table)


def printable_lines(text: str) -> str:
    """Return lines that a terminal takes for no command."""
    return "\n".join(map(printable, text.split("\n")))


View = JsonView | TableView
