"""The example of docs/own-models.md: our own lines, as its script writes them."""

import importlib.util
import json
from collections import Counter
from pathlib import Path

from agent.evaluation.examples import read_examples

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "examples"
LINES = FOLDER / "front-desk.jsonl"


def test_script_writes_the_file() -> None:
    """The same seed makes the same lines."""
    script = FOLDER / "make_front_desk.py"
    spec = importlib.util.spec_from_file_location("make_front_desk", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = [json.loads(line) for line in LINES.read_text("utf-8").splitlines()]
    assert module.messages() == written


def test_lines_are_what_the_page_says() -> None:
    """500 different messages, 13 labels, 8 % out of scope, no space around entities."""
    examples = read_examples(LINES)
    assert len({example.text.casefold() for example in examples}) == 500
    counts = Counter(example.label for example in examples)
    assert len(counts) == 14
    assert counts["oos"] == 40
    found = [
        example.text[span.start : span.end]
        for example in examples
        for span in example.spans
    ]
    assert all(text == text.strip() for text in found)
    entities = {span.label for example in examples for span in example.spans}
    assert entities == {"room", "time", "date", "item", "place"}
