"""The folded view: plain characters, each with its place in the text."""

# ruff: noqa: RUF001 - letters that look like ours are what this is about

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.inference.folding import folded, united

ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.mark.parametrize(
    ("text", "view"),
    [
        ("plain 1-2", "plain 1-2"),
        ("４１１１", "4111"),
        ("٤१௧𝟒①❶²", "4114112"),
        ("1\u200b2\u00ad3\ufeff4", "1234"),
        ("4\ufe0f\u20e3", "4"),
        ("a\u2011b\u2013c\u2212d", "a-b-c-d"),
        ("a\u00a0b\u2009c", "a b c"),
        ("ｊａｎｅ＠ｅｘ．ｃｏｍ", "jane@ex.com"),
        ("ex。com", "ex.com"),
        ("ﬁn", "fin"),
        ("Zoë", "Zoë"),
        ("a\u2028b", "a\nb"),
    ],
)
def test_view(text: str, view: str) -> None:
    """Digits, hyphens, spaces and compatibility forms become the plain ones."""
    assert folded(text).text == view


@given(ANY)
def test_places_lead_back(text: str) -> None:
    """Each character of the view is of the character that it names, in order."""
    view = folded(text)
    spans = [view.span(at, at + 1) for at in range(len(view.text))]
    assert spans == sorted(spans)
    for at, (start, end) in enumerate(spans):
        assert end == start + 1
        assert view.text[at] in folded(text[start:end]).text
    if view.text:
        start, end = view.span(0, len(view.text))
        assert folded(text[start:end]).text == view.text


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=8))
def test_united(spans: list[tuple[int, int]]) -> None:
    """Places that overlap become one, and no character is lost or won."""
    whole = [(min(span), max(span)) for span in spans]
    made = list(united(whole))
    assert all(one[1] <= other[0] for one, other in pairwise(made))
    covered = {at for start, end in whole for at in range(start, end)}
    assert {at for start, end in made for at in range(start, end)} == covered
