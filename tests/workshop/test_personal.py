"""Invented personal data: labelled as the model will be asked, diverse, repeatable."""

import os
import re
import subprocess
import sys
from collections import Counter

import pytest

pytest.importorskip("faker", reason="the extra `workshop` is not installed")

from agent.evaluation.examples import Example
from agent.inference.patterns import card_brand, find, iban, luhn
from agent.workshop.data import personal
from agent.workshop.data.personal import fill, generate, splits, templates
from agent.workshop.data.personal_values import SLOTS, Source, open_source

LABELS = frozenset(
    {
        "PERSON",
        "STREET_ADDRESS",
        "GPE",
        "ORGANIZATION",
        "CREDIT_CARD",
        "DATE_TIME",
        "TITLE",
        "PHONE_NUMBER",
        "AGE",
        "NRP",
        "EMAIL_ADDRESS",
        "ZIP_CODE",
        "DOMAIN_NAME",
        "IBAN_CODE",
        "US_SSN",
        "IP_ADDRESS",
        "US_DRIVER_LICENSE",
    }
)


@pytest.fixture(scope="module")
def sample() -> list[Example]:
    """Return three thousand texts."""
    return generate(3000, seed=7)


@pytest.fixture(scope="module")
def source() -> Source:
    """Return a source of values."""
    return open_source(3)


def values(sample: list[Example], label: str) -> list[str]:
    """Return the texts of all entities of a label."""
    return [
        example.text[span.start : span.end]
        for example in sample
        for span in example.spans
        if span.label == label
    ]


def test_the_same_seed_gives_the_same_texts(sample: list[Example]) -> None:
    """Data can be made again: by the seed, and by nothing else."""
    assert generate(200, seed=7) == sample[:200]
    assert generate(50, seed=8) != sample[:50]


def test_spans_are_in_order_and_apart(sample: list[Example]) -> None:
    """Spans never overlap, and none has space at its edge or is empty."""
    for example in sample:
        end = 0
        for span in example.spans:
            assert end <= span.start < span.end <= len(example.text)
            inside = example.text[span.start : span.end]
            assert inside == inside.strip()
            end = span.end


def test_spans_are_whole_words(sample: list[Example]) -> None:
    """A span begins at a word of BERT's pre-tokenisation, and ends with one."""
    for example in sample:
        for edge in (edge for span in example.spans for edge in (span.start, span.end)):
            if 0 < edge < len(example.text):
                before, after = example.text[edge - 1], example.text[edge]
                assert splits(before) or splits(after), (example.text, edge)


def test_every_label_is_frequent(sample: list[Example]) -> None:
    """Each label is in two texts of a hundred, and persons are in the most."""
    texts = Counter(
        label for example in sample for label in {span.label for span in example.spans}
    )
    assert set(texts) == LABELS
    assert all(count >= 0.02 * len(sample) for count in texts.values()), texts
    assert texts.most_common(1)[0][0] == "PERSON"


def test_some_texts_are_harmless(sample: list[Example]) -> None:
    """About one text of seven has nothing in it, and hardly one is made twice."""
    harmless = sum(not example.spans for example in sample)
    assert 0.1 <= harmless / len(sample) <= 0.22
    assert len({example.text for example in sample}) > 0.95 * len(sample)
    assert all(example.label is None for example in sample)


def test_texts_are_short_and_long(sample: list[Example]) -> None:
    """There are texts of three words, and of fifty."""
    lengths = sorted(len(example.text.split()) for example in sample)
    assert lengths[len(lengths) // 10] <= 5
    assert lengths[-len(lengths) // 50] >= 50


def test_checked_values_pass_their_check(sample: list[Example]) -> None:
    """Cards and IBANs have right check digits, but for a few slips."""
    cards = [re.sub(r"\D", "", card) for card in values(sample, "CREDIT_CARD")]
    ibans = [re.sub(r"[ -]", "", code).upper() for code in values(sample, "IBAN_CODE")]
    assert sum(luhn(card) and card_brand(card) for card in cards) > 0.9 * len(cards)
    assert all(map(iban, ibans))


@pytest.mark.parametrize("label", ["IP_ADDRESS", "EMAIL_ADDRESS", "DOMAIN_NAME"])
def test_patterns_agree(sample: list[Example], label: str) -> None:
    """The patterns of the device find nearly all that is labelled, and little else."""
    wanted = {
        (number, span.start, span.end)
        for number, example in enumerate(sample)
        for span in example.spans
        if span.label == label
    }
    found = {
        (number, entity.start, entity.end)
        for number, example in enumerate(sample)
        for entity in find(example.text, {label})
        # Without its label an e-mail address is only half seen.
        if label != "DOMAIN_NAME" or "@" not in entity.text
    }
    assert len(wanted & found) > 0.93 * len(wanted)
    assert len(found - wanted) < 0.05 * len(wanted)


def test_harmless_templates_are_harmless_to_the_patterns(source: Source) -> None:
    """Nothing in the texts without personal data passes a check."""
    for template in templates()[personal.NEGATIVE]:
        pieces = fill(template, source)
        assert all(label is None for _, label in pieces), template
        assert find("".join(text for text, _ in pieces), LABELS) == [], template


def test_templates_are_many_and_different() -> None:
    """There are 1,700 templates, few of them twice, and each names slots that exist."""
    lines = [line for some in templates().values() for line in some]
    assert len(set(lines)) > 1700
    assert len(lines) - len(set(lines)) <= 3
    for line in lines:
        assert set(re.findall(r"\{(\w+)\}", line)) <= SLOTS.keys(), line
        assert line.count("[") == line.count("]"), line


def test_what_scores_shares_nothing_with_what_teaches() -> None:
    """Templates and listed values are parted: those kept never come in training."""
    taught, kept = (personal._share(one) for one in (False, True))
    for register, lines in templates().items():
        assert sorted(taught[register] + kept[register]) == sorted(lines)
        assert kept[register], register
    ours, theirs = (open_source(5, kept=one) for one in (False, True))
    for section in (
        "organizations",
        "cities",
        "countries",
        "african_last",
        "nicknames",
    ):
        assert not set(ours.words[section]) & set(theirs.words[section])
        assert len(ours.words[section]) > len(theirs.words[section]) > 0
    assert all(personal._by_label(kept=True))


@pytest.mark.parametrize("slot", sorted(SLOTS.keys() - {"ob", "cb"}))
def test_a_slot_gives_clean_and_different_values(source: Source, slot: str) -> None:
    """A value is not empty, has no space around it, and is seldom the same."""
    made = [SLOTS[slot](source) for _ in range(200)]
    for pieces in made:
        for text, label in pieces:
            assert label is None or (text == text.strip() and label in LABELS)
            assert text
    assert len({str(pieces) for pieces in made}) > 5


def test_a_template_says_what_is_what(source: Source) -> None:
    """A title before a name is an entity of its own, and an article fits its noun."""
    labels = [label for _, label in fill("Ask {title} {last}.", source)]
    assert labels == [None, "TITLE", None, "PERSON", None]
    places = [label for _, label in fill("in {place}", source)]
    assert places == [None, "GPE", None, "GPE", None]
    for _ in range(100):
        before, (nation, _), _ = fill("It is a {nrp} film", source)
        vowel = nation[0] in "AEIO" and not nation.startswith("Eu")
        assert before[0] == ("It is an " if vowel else "It is a ")


def test_a_name_is_one_entity(source: Source) -> None:
    """A first and a last name side by side are one person."""
    pieces = fill("{first} {last} and {first}", source)
    example = personal._example(pieces)
    assert example is not None
    assert len(example.spans) == 2


@pytest.mark.parametrize("hashing", ["1", "2"])
def test_another_process_makes_the_same_texts(
    sample: list[Example], hashing: str
) -> None:
    """No text depends on the order of a set, which differs between processes."""
    code = (
        "from agent.workshop.data.personal import generate as g; "
        "print(repr(g(900, seed=7)))"
    )
    made = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": hashing, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert made.stdout.strip() == repr(sample[:900])
