"""A short fuzzing of every parser of bytes that others choose; `make fuzz` is the long.

Inputs are those of the corpus, changed, and bytes out of nowhere; always the same ones.
"""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from harness.fuzz import CORPUS
from harness.fuzz_targets import TARGETS, Target

EXAMPLES = 150
TOKENS = [
    b"\xef\xbb\xbf",
    b"NaN",
    b"Infinity",
    b"1e999",
    b"\\ud800",
    b"\xff\xfe",
    b"\0",
    b"$share/",
    b"${x}",
    b"$${",
    b"[" * 2000,
    b"{" * 2000,
    b"'''",
    b"0x" + b"f" * 4000,
    b"9" * 5000,
    b"\x1b[2J",
    b"+",
    b"#",
    b"\xc2\x80",
    b"\xef\xbf\xbf",
    b"\x7f",
    b"\n",
]
WORDS = st.one_of(st.sampled_from(TOKENS), st.binary(max_size=8))
PLACES = st.floats(0, 1)


def edited(data: bytes, edits: list[tuple[float, float, bytes]]) -> bytes:
    """Return bytes of which parts are replaced by others."""
    for start, length, word in edits:
        begin = round(start * len(data))
        end = begin + round(length**4 * (len(data) - begin))  # mostly a little
        data = data[:begin] + word + data[end:]
    return data


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Return inputs for a target."""
    edits = st.lists(st.tuples(PLACES, PLACES, WORDS), max_size=4)
    changed = st.builds(edited, st.sampled_from(target.corpus()), edits)
    return st.one_of(changed, changed, changed, st.binary(max_size=300))


def test_the_corpus_is_of_the_targets() -> None:
    """Each parser has its folder of inputs, and none is left of what is gone."""
    assert {path.name for path in CORPUS.iterdir()} == {t.name for t in TARGETS}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_the_corpus(target: Target) -> None:
    """What once found something finds nothing any more."""
    assert target.corpus()
    for data in target.corpus():
        target.run(data)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_whatever_comes(target: Target) -> None:
    """No input makes a parser raise, or return what others could not read."""

    @settings(
        max_examples=EXAMPLES,
        deadline=2000,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(inputs(target))
    def check(data: bytes) -> None:
        target.run(data)

    check()
