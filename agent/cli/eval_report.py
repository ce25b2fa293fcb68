"""The report of `slm-agent eval`: as text for a terminal, and as a page of HTML."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from agent.core.words import printable
from agent.evaluation.breakdown import Breakdown, CurvePoint

WIDTH = 80  # columns
SHARES = {
    "accuracy": "label right",
    "in_scope_accuracy": "... of texts in scope",
    "coverage": "resolved here",
    "in_scope_coverage": "... of texts in scope",
    "out_of_scope_kept": "out of scope, left unresolved",
    "resolved_accuracy": "label right among the resolved",
    "span_f1": "entities, F1",
    "resolved_span_f1": "entities, F1 among the resolved",
    "span_f2": "entities, F2 with overlap",
    "missed": "characters of entities missed",
    "hit": "other characters taken for entities",
}
STEPS = (0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1.0)  # of coverage, in text

Figures = Mapping[str, Any]
Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]  # title, headings, rows


def text_report(figures: Figures, report: Breakdown) -> Iterator[str]:
    """Yield the lines of the report; none is wider than a terminal of 80 columns."""
    yield f"{figures['pipeline']} ({figures['model']}): {figures['n']} texts"
    yield ""
    yield f"{'':38}{'share':>8}   95 % interval"
    for name, words in SHARES.items():
        if figures[name] is not None:
            interval = _interval(figures, name)
            yield f"{words:38}{_percent(figures[name]):>8}   {interval}".rstrip()
    yield ""
    yield from _other_figures(figures)
    for title, headings, rows in _tables(report):
        yield ""
        yield title
        yield from _aligned(headings, rows)
    if report.curve:
        yield ""
        yield "wrong, were the surest texts resolved"
        yield "".join(f"{step:>9.0%}" for step in STEPS)
        yield "".join(f"{_error_at(report.curve, step):>9.1%}" for step in STEPS)
    if report.texts:
        yield ""
        yield "wrong, though sure"
        for text in report.texts:
            state = "resolved" if text.resolved else "unresolved"
            yield _cut(f"  {text.confidence:.2f} {state:10} {text.text}")
            yield _cut(f"       is {text.true}, was taken for {text.said}")


def html_report(figures: Figures, report: Breakdown, data: str) -> str:
    """Return a page that needs nothing else: no scripts, no fonts, no network."""
    shares = [
        (words, _percent(figures[name]), _interval(figures, name))
        for name, words in SHARES.items()
        if figures[name] is not None
    ]
    tables = [("Figures", ("", "share", "95 % interval"), shares), *_tables(report)]
    texts = [
        (
            f"{text.confidence:.2f}",
            "resolved" if text.resolved else "unresolved",
            text.text,
            text.true,
            text.said,
        )
        for text in report.texts
    ]
    if texts:
        headings = ("confidence", "status", "text", "is", "was taken for")
        tables.append(("Wrong, though sure", headings, texts))
    title = f"{figures['pipeline']} ({figures['model']}) on {data}"
    return PAGE.substitute(
        title=escape(title),
        n=figures["n"],
        others=escape("; ".join(_other_figures(figures))),
        curve=_chart(report.curve, figures),
        tables="".join(_html_table(table) for table in tables),
    )


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _interval(figures: Figures, name: str) -> str:
    if name not in figures["intervals"]:
        return ""
    low, high = figures["intervals"][name]
    return f"{low * 100:.1f} - {high * 100:.1f}"


def _other_figures(figures: Figures) -> Iterator[str]:
    tiers = ", ".join(f"{by} {count}" for by, count in figures["by_tier"].items())
    yield f"answered by {tiers}" if tiers else "answered by none"
    yield (
        f"{figures['texts_per_s']:g} texts/s, {figures['ms_p50']} ms p50, "
        f"{figures['ms_p99']} ms p99"
    )
    names = {"aurc": "AURC", "ece": "ECE of labels", "entity_ece": "ECE of entities"}
    known = [
        f"{w} {figures[n]:.4f}" for n, w in names.items() if figures[n] is not None
    ]
    if known:
        yield ", ".join(known)


def _tables(report: Breakdown) -> Iterator[Table]:
    if report.labels:
        yield (
            "worst labels",
            ("label", "texts", "right", "resolved", "often taken for"),
            [
                (
                    row.label,
                    str(row.n),
                    _percent(row.right / row.n),
                    _percent(row.resolved / row.n),
                    row.taken_for,
                )
                for row in report.labels
            ],
        )
    if report.confusions:
        yield (
            "confusions",
            ("is", "was taken for", "times"),
            [(true, given, str(count)) for true, given, count in report.confusions],
        )
    if report.entities:
        yield (
            "worst entities",
            ("type", "true", "found", "right", "F1"),
            [
                (
                    row.label,
                    str(row.true),
                    str(row.predicted),
                    str(row.hits),
                    _percent(row.f1),
                )
                for row in report.entities
            ],
        )


def _aligned(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    room = (WIDTH - 2) // 2 - 2 * len(headings)
    lines = [tuple(_cut(cell, room) for cell in line) for line in (headings, *rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(headings))]
    for line in lines:
        cells = zip(line, widths, strict=True)
        yield ("  " + "  ".join(cell.ljust(width) for cell, width in cells)).rstrip()


def _cut(text: str, width: int = WIDTH) -> str:
    text = printable(text)
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _error_at(curve: Sequence[CurvePoint], coverage: float) -> float:
    """Return the error at the first point that covers as much."""
    return next(point.error for point in curve if point.coverage >= coverage - 1e-9)


def _html_table(table: Table) -> str:
    title, headings, rows = table
    head = "".join(f"<th>{escape(cell)}</th>" for cell in headings)
    body = "".join(
        "<tr>"
        + "".join(f"<td>{escape(printable(cell))}</td>" for cell in row)
        + "</tr>"
        for row in rows
    )
    return f"<h2>{escape(title.capitalize())}</h2><table><tr>{head}</tr>{body}</table>"


# -- the curve: 600 x 240 pixels of SVG

LEFT, TOP, ACROSS, DOWN = 50, 10, 530, 190


def _chart(curve: Sequence[CurvePoint], figures: Figures) -> str:
    if not curve:
        return ""
    most = max(0.01, *(point.error for point in curve))

    def at(coverage: float, error: float) -> str:
        return f"{LEFT + coverage * ACROSS:.1f},{TOP + DOWN * (1 - error / most):.1f}"

    points = " ".join(at(point.coverage, point.error) for point in curve)
    lines = "".join(
        f'<text x="{LEFT + share * ACROSS:.0f}" y="{TOP + DOWN + 18}" '
        f'text-anchor="middle">{share:.0%}</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    )
    lines += "".join(
        f'<text x="{LEFT - 6}" y="{TOP + DOWN * (1 - part) + 4:.0f}" '
        f'text-anchor="end">{most * part:.1%}</text>'
        f'<path class="grid" d="M{LEFT},{TOP + DOWN * (1 - part):.1f}h{ACROSS}"/>'
        for part in (0, 0.5, 1)
    )
    now = LEFT + figures["coverage"] * ACROSS
    return (
        '<svg viewBox="0 0 600 240" role="img" aria-label="coverage against error">'
        f'{lines}<path class="now" d="M{now:.1f},{TOP}v{DOWN}"/>'
        f'<polyline points="{points}"/>'
        f'<text x="{LEFT + ACROSS // 2}" y="{TOP + DOWN + 36}" text-anchor="middle">'
        "share of the texts that is resolved, the surest first; "
        "the line is where the pipeline is</text></svg>"
    )


PAGE = Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title><style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto;
  padding: 0 1em; color: #222; background: #fff }
table { border-collapse: collapse; margin: .5em 0 }
td, th { padding: .2em .8em; text-align: left; border-bottom: 1px solid #ddd;
  vertical-align: top; overflow-wrap: anywhere }
svg { width: 100%; font-size: 12px } polyline { fill: none; stroke: #06c;
  stroke-width: 2 } .grid { stroke: #ddd } .now { stroke: #c00; stroke-dasharray: 4 }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 }
  td, th { border-color: #444 } .grid { stroke: #444 } svg { fill: #ddd } }
</style></head><body><h1>$title</h1><p>$n texts; $others</p>
<h2>Wrong, were the surest texts resolved</h2>$curve
$tables</body></html>
""")
