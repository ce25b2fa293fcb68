"""The privacy gate: what it hides, what leaves, and how it comes back."""

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.section import Limit
from agent.core.errors import BundleError
from agent.core.expressions import compiled
from agent.core.types import Entity, Prediction, RawPrediction, Tier
from agent.escalation.privacy_gate import (
    Finder,
    Redacted,
    guess_without,
    redact,
    restore,
    returned,
    withheld,
)
from agent.inference import patterns
from agent.inference.bundle import Bundle, Stage
from agent.inference.calibration import TierCalibration
from agent.inference.pipeline import EscalationSpec
from agent.protocol.cases import BadReply, Named, Request, checked
from agent.protocol.messages import guess_object
from harness.leaks import every_word, fragments, stands, values

HERE = Path(__file__).parent
TEXTS = (HERE / "personal.txt").read_text("utf-8").splitlines()
SHIPPED = HERE.parent.parent / "models" / "privacy"
PLACEHOLDER = re.compile(r"\[[A-Z0-9_]+\]")

# Few characters, so that the same words come again and again.
ODD = 'ab AB1_[]"\\<\n.é\u0301ßİ王\U0001f98a'
TEXT = st.one_of(
    st.text(ODD, max_size=40),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.lists(
        st.sampled_from(["Ann", "ANN", "Anna", "Lee", " ", "[A_1]", "A_", "_1", "]"])
    ).map("".join),
)
KINDS = ["A", "A_1", "PERSON", "a b]", ""]


def named(text: str, *finds: tuple[str, str]) -> list[Entity]:
    """Return entities by words and type, each at its first place after the one before.

    Words that do not stand there any more are sought from the beginning.
    """
    found = []
    end = 0
    for words, kind in finds:
        start = text.find(words, end)
        start = start if start >= 0 else text.index(words)
        end = start + len(words)
        found.append(Entity(kind, words, start, end, 0.5))
    return found


@st.composite
def texts_with_finds(draw: st.DrawFn) -> tuple[str, list[Entity]]:
    """Return any text and any finds in it, over one another or not."""
    text = draw(TEXT)
    places = st.integers(0, len(text))
    spans = draw(st.lists(st.tuples(places, places, st.sampled_from(KINDS))))
    return text, [
        Entity(kind, text[min(a, b) : max(a, b)], min(a, b), max(a, b), None)
        for a, b, kind in spans
    ]


ANY = texts_with_finds()


# -- what is hidden


@pytest.mark.parametrize(
    ("text", "finds", "expected"),
    [
        ("call Ann", [("Ann", "PERSON")], "call [PERSON_1]"),
        ("nobody", [], "nobody"),
        # The same words share a placeholder; another type or case has its own.
        (
            "Ann, Ann and Bob",
            [("Ann", "PERSON"), ("Bob", "PERSON")],
            "[PERSON_1], [PERSON_1] and [PERSON_2]",
        ),
        (
            "Paris is in Paris",
            [("Paris", "PERSON"), ("Paris", "GPE")],
            "[PERSON_1] is in [GPE_1]",
        ),
        (
            "Paris, Paris, Paris",
            [("Paris", "PERSON"), ("Paris", "GPE")],
            "[PERSON_1], [GPE_1], [PERSON_1]",
        ),
        (
            "Ann is ANN",
            [("Ann", "PERSON"), ("ANN", "PERSON")],
            "[PERSON_1] is [PERSON_2]",
        ),
        # A number that the text has is left out, with brackets and without.
        ("[PERSON_1] is Ann", [("Ann", "PERSON")], "[PERSON_1] is [PERSON_2]"),
        ("PERSON_12 is Ann", [("Ann", "PERSON")], "PERSON_12 is [PERSON_2]"),
        ("[GPE_1] is Ann", [("Ann", "PERSON")], "[GPE_1] is [PERSON_1]"),
        # What was found once is hidden everywhere: long words inside of others, ...
        ("Mark marked Marking", [("Mark", "P")], "[P_1] marked [P_1]ing"),
        # ... whatever the case as words of their own, ...
        ("Mark: mark, MARK, market", [("Mark", "P")], "[P_1]: [P_2], [P_3], market"),
        ("Anan, bAnanan", [("Anan", "P"), ("anan", "P")], "[P_1], b[P_2]"),
        ("Weiß is WEISS", [("Weiß", "P")], "[P_1] is [P_2]"),
        # ... short ones as they are.
        ("Al is also Al's AL", [("Al", "P")], "[P_1] is also [P_1]'s AL"),
        ("the US told us", [("US", "GPE")], "the [GPE_1] told us"),
        ("王明说王明", [("王明", "P")], "[P_1]说[P_1]"),
        # Beside something hidden a word ends.
        ("AlBob likes Al", [("Bob", "P"), ("Al", "P")], "[P_1][P_2] likes [P_1]"),
        # Of finds that overlap the union is hidden, by the name of the longest, ...
        ("Ann Lee Ray", [("Ann Lee", "P"), ("Lee Ray", "Q")], "[P_1]"),
        ("Dr. Ann Lee", [("Ann", "P"), ("Ann Lee", "Q"), ("Dr. Ann", "R")], "[R_1]"),
        # ... and those that only touch stay two.
        ("AnnLee", [("Ann", "P"), ("Lee", "P")], "[P_1][P_2]"),
        ("at  7 pm .", [("  7 pm ", "T")], "at  [T_1] ."),
        ("a", [("a", "odd type]")], "[ODD_TYPE__1]"),
    ],
)
def test_redact(text: str, finds: list[tuple[str, str]], expected: str) -> None:
    """The rules of hiding, one by one."""
    assert redact(text, named(text, *finds)).text == expected


def test_what_was_hidden_is_counted() -> None:
    """Each place counts, by type; the map holds the words once, as written."""
    text = "Ann, Bob, Ann: a@b.org"
    found = named(text, ("Ann", "PERSON"), ("Bob", "PERSON"), ("a@b.org", "EMAIL"))
    hidden = redact(text, found)
    assert hidden.counters == {"PERSON": 3, "EMAIL": 1}
    assert hidden.hidden == {
        "[PERSON_1]": "Ann",
        "[PERSON_2]": "Bob",
        "[EMAIL_1]": "a@b.org",
    }


@given(ANY)
def test_restoring_gives_the_original(given_: tuple[str, list[Entity]]) -> None:
    """Whatever the text and the finds, nothing is lost and nothing is mixed up."""
    text, found = given_
    hidden = redact(text, found)
    assert restore(hidden.text, hidden.hidden) == text
    assert sum(hidden.counters.values()) == sum(
        hidden.text.count(name) for name in hidden.hidden
    )
    assert not any(name in text or name[1:-1] in text for name in hidden.hidden)


@given(ANY)
def test_nothing_found_is_left(given_: tuple[str, list[Entity]]) -> None:
    """None of the words that were found stands beside the placeholders."""
    text, found = given_
    hidden = redact(text, found)
    left = fragments(hidden.text, hidden)
    assert not [
        (words, piece)
        for words in values(found)
        for piece in left
        if stands(words, piece)
    ]


@given(ANY)
def test_what_is_not_found_stays(given_: tuple[str, list[Entity]]) -> None:
    """Only finds are hidden, and what has their words, in whatever case, in it."""
    text, found = given_
    hidden = redact(text, found)
    folded = [words.casefold() for words in values(found)]
    for words in hidden.hidden.values():
        assert any(value in words.casefold() for value in folded)


@pytest.mark.parametrize(
    ("text", "step", "size"),
    [
        ("a" * 100_000, 100_000, 50_000),
        ("a " * 50_000, 1200, 1000),
        ("ab" * 50_000, 7, 6),
        (" ".join(f"{n:05}" for n in range(16_666)), 6, 5),
        ("[PERSON_" * 12_500, 8, 1),
        ("PERSON_11111111" * 6_666, 15, 6),
        ("İß\u0301" * 33_333, 3, 2),
    ],
    ids=["one", "words", "pairs", "distinct", "brackets", "numbers", "folding"],
)
def test_hostile_texts_take_no_longer(text: str, step: int, size: int) -> None:
    """The longest texts, repeating or not, are hidden in a moment and restored."""
    found = [
        Entity("PERSON", text[at : at + size], at, at + size, None)
        for at in range(0, len(text) - size, step)
    ]
    begun = time.perf_counter()
    hidden = redact(text, found)
    assert restore(hidden.text, hidden.hidden) == text
    guess_without(guess_object(None), text, hidden)
    assert time.perf_counter() - begun < 20


# -- what leaves


def a_request(
    text: str, found: Sequence[Entity], guessed: Sequence[Entity]
) -> tuple[Request, Redacted]:
    """Return what is asked about a text, with a local guess."""
    guess = Prediction(Tier.ENCODER, "alarm_set", 0.5, tuple(guessed))
    hidden = redact(text, found)
    request = Request(
        id="m-1",
        device="pi",
        pipeline="home",
        text=hidden.text,
        labels={"alarm_set": "set an alarm"},
        entities={"thing": "anything"},
        guess=guess_without(guess_object(guess), text, hidden),
        redacted=sum(hidden.counters.values()),
        deadline_ms=1_700_000_000_000,
    )
    return request, hidden


@given(ANY)
def test_the_guess_speaks_of_the_redacted_text(
    given_: tuple[str, list[Entity]],
) -> None:
    """Its entities stand there, are words of the original, and hide what was found."""
    text, found = given_
    request, hidden = a_request(text, found, [*found, *every_word(text)])
    assert request.guess is not None
    assert request.guess["label"] == "alarm_set"
    for entity in request.guess["entities"]:
        assert entity["text"] in request.text
        assert restore(entity["text"], hidden.hidden) in text
        assert not any(
            stands(words, piece)
            for words in values(found)
            for piece in fragments(entity["text"], hidden)
        )
    assert request.guess["entities"][-1]["text"] == request.text


def test_a_guess_keeps_what_is_not_hidden() -> None:
    """Entities move to their new places; a part of what is hidden is left out."""
    text = "wake Ann Lee at nine"
    guess = Prediction(
        Tier.ENCODER,
        "alarm_set",
        0.5,
        (
            Entity("who", "Ann Lee", 5, 12, 0.9),
            Entity("who", "Lee", 9, 12, 0.9),
            Entity("who", "wake Ann", 0, 8, 0.9),
            Entity("who", "Ann Lee at", 5, 15, 0.9),
            Entity("time", "nine", 16, 20, None),
        ),
    )
    hidden = redact(text, named(text, ("Ann Lee", "PERSON")))
    told = guess_without({**guess_object(guess), "text": text}, text, hidden)
    assert told == {
        "by": "encoder",
        "label": "alarm_set",
        "score": 0.5,
        "entities": [
            {"label": "who", "text": "[PERSON_1]", "score": 0.9},
            {"label": "who", "text": "[PERSON_1] at", "score": 0.9},
            {"label": "time", "text": "nine", "score": None},
        ],
    }


def test_a_guess_where_nothing_is_hidden() -> None:
    """It is told as it is, but for the places; none is none."""
    open_text = Redacted("wake me", {}, {})
    guess = guess_object(
        Prediction(Tier.LINEAR, None, None, (Entity("w", "me", 5, 7, 1),))
    )
    told = [{"label": "w", "text": "me", "score": 1}]
    assert guess_without(guess, "wake me", open_text) == {**guess, "entities": told}
    nobody = guess_object(None)
    assert guess_without(nobody, "wake me", open_text) == nobody
    assert guess_without(None, "wake me", open_text) is None


def test_a_guess_about_another_text_is_left_out() -> None:
    """An entity whose words do not stand at its place says nothing."""
    guess = guess_object(
        Prediction(Tier.LINEAR, None, None, (Entity("w", "Ann", 0, 2, 1),))
    )
    told = guess_without(guess, "wake me", Redacted("wake me", {}, {}))
    assert told is not None
    assert told["entities"] == []


# -- what comes back

LEES = "Ann Lee called, Lee said. Anna at [PERSON_1]: Ann"
HIDDEN = redact(LEES, named(LEES, ("Ann Lee", "PERSON"), ("Lee", "PERSON")))


def says(*words: str) -> list[Named]:
    """Return entities that an answer names."""
    return [Named(label="who", text=each) for each in words]


def test_the_text_of_the_next_tests() -> None:
    """A number is taken, "Lee" is hidden twice, "Anna" is not."""
    assert HIDDEN.text == "[PERSON_2] called, [PERSON_3] said. Anna at [PERSON_1]: Ann"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("[PERSON_2]", ("Ann Lee", 0)),
        ("[PERSON_3]", ("Lee", 16)),  # not the one in "Ann Lee"
        ("[PERSON_2] called, [PERSON_3]", ("Ann Lee called, Lee", 0)),
        (", [PERSON_3] said", (", Lee said", 14)),
        ("Anna", ("Anna", 26)),
        ("[PERSON_1]", ("[PERSON_1]", 34)),  # the text's own
        ("PERSON_1", ("PERSON_1", 35)),
        ("1", ("1", 42)),  # not one of a placeholder
    ],
)
def test_an_entity_comes_back_to_its_place(
    words: str, expected: tuple[str, int]
) -> None:
    """What an answer names in the redacted text is found in the original."""
    [entity] = returned(says(words), HIDDEN)
    assert (entity.text, entity.start) == expected
    assert LEES[entity.start : entity.end] == entity.text
    assert (entity.label, entity.score) == ("who", None)


CUT = [
    "PERSON_2",
    "[PERSON_2",
    "PERSON_2]",
    "ERSON_3] said",
    "] called, [PERSON_3]",
    "[PERSON_2] called, [",
    "[PERSON_2] called, [PERSON_",
    "N_2",
    "nobody",
    "",
]


@pytest.mark.parametrize("words", CUT)
def test_a_part_of_a_placeholder_is_no_entity(words: str) -> None:
    """It names nothing of the original, and why says nothing of what is hidden."""
    with pytest.raises(BadReply) as caught:
        returned(says("Anna", words), HIDDEN)
    assert repr(words) in str(caught.value)
    assert "Lee" not in str(caught.value)


@given(ANY, st.data())
def test_answers_come_back_to_their_places(
    given_: tuple[str, list[Entity]], data: st.DataObject
) -> None:
    """Whatever is named in the redacted text is there in the original, or invalid."""
    text, found = given_
    hidden = redact(text, found)
    places = st.integers(0, len(hidden.text))
    spans = data.draw(st.lists(st.tuples(places, places), max_size=3))
    asked = says(*(hidden.text[min(span) : max(span)] for span in spans))
    try:
        entities = returned(asked, hidden)
    except BadReply:
        return
    assert len(entities) == len(asked)
    for entity in entities:
        assert text[entity.start : entity.end] == entity.text
    # By another way: an entity's beginning is where the text before it ends.
    there = {
        (
            len(restore(hidden.text[:at], hidden.hidden)),
            restore(each.text, hidden.hidden),
        )
        for each in asked
        for at in range(len(hidden.text) + 1)
        if hidden.text.startswith(each.text, at)
    }
    assert {(entity.start, entity.text) for entity in entities} <= there


@given(ANY)
def test_whole_finds_come_back(given_: tuple[str, list[Entity]]) -> None:
    """An answer that names every placeholder, in order, gives every hidden place."""
    text, found = given_
    hidden = redact(text, found)
    names = [name for name in PLACEHOLDER.findall(hidden.text) if name in hidden.hidden]
    entities = returned(says(*names), hidden)
    covered = bytearray(len(text))
    for entity in entities:
        covered[entity.start : entity.end] = b"\1" * len(entity.text)
    for entity in found:
        inside = text[entity.start : entity.end].strip()
        start = text.index(inside, entity.start)
        assert all(covered[start : start + len(inside)])


def test_from_text_to_entities() -> None:
    """Validated against what left, restored, and found in the original."""
    text = "wake Ann Lee at nine, and Ann Lee's cat"
    hidden = redact(text, named(text, ("Ann Lee", "PERSON")))
    request = Request(
        id="1",
        device="pi",
        pipeline="home",
        text=hidden.text,
        entities={"who": "a person"},
        deadline_ms=0,
    )
    said = [{"label": "who", "text": "[PERSON_1]"}] * 2
    answer = checked({"entities": said}, request)
    entities = returned(answer.entities, hidden)
    assert [(e.start, e.text) for e in entities] == [(5, "Ann Lee"), (26, "Ann Lee")]


# -- who finds


class Said:
    """A model that finds what it is told to."""

    def __init__(self, *words: str) -> None:
        """`words` are found where they stand first."""
        self._words = words

    def predict(self, texts: Sequence[str]) -> list[RawPrediction]:
        """Find them, however doubtful."""
        return [
            RawPrediction(
                None, tuple(named(text, *((w, "PERSON") for w in self._words)))
            )
            for text in texts
        ]


def finding(bundle: Bundle, *models: Said) -> Bundle:
    """Return a bundle of these models and of patterns for mail addresses."""
    update = {"patterns": ["EMAIL_ADDRESS"]}
    return replace(
        bundle,
        manifest=bundle.manifest.model_copy(update=update),
        stages=tuple(Stage(Tier.ENCODER, m, TierCalibration()) for m in models),
    )


def test_models_and_patterns_are_heard_both(bundle: Bundle) -> None:
    """A find of a model counts where a pattern overlaps it, and of every tier."""
    text = "Ann ann@example.org and Bob"
    found = Finder(finding(bundle, Said("Ann ann"), Said("Bob"))).find(text)
    assert values(found) == {"Ann ann", "ann@example.org", "Bob"}
    assert redact(text, found).text == "[EMAIL_ADDRESS_1] and [PERSON_1]"


def spec(**but: object) -> EscalationSpec:
    """Return what a pipeline lets leave."""
    given: dict[str, Any] = {
        "labels": {},
        "entities": {},
        "redacts": True,
        "visible": frozenset(),
        "provisional": False,
        "deadline_s": 1.0,
        "priority": 5,
        "limit": Limit("home", None, None, None),
    }
    return EscalationSpec(**given | but)


def test_what_an_operator_wants_to_be_seen() -> None:
    """Types by name, and letters of scripts by theirs; what is of two needs both."""
    text = "Иван and 王明, Анна 王, noon"
    found = [
        *patterns.find(text, {"OTHER_SCRIPT"}),
        *named(text, ("noon", "DATE_TIME")),
    ]
    kept = [e.text for e in withheld(text, found, spec())]
    assert kept == ["Иван", "王明, Анна 王", "noon"]
    seen = spec(visible=frozenset({"DATE_TIME"}), scripts=frozenset({"CYRILLIC"}))
    assert [e.text for e in withheld(text, found, seen)] == ["王明, Анна 王"]
    both = spec(scripts=frozenset({"CYRILLIC", "CJK"}))
    assert [e.text for e in withheld(text, found, both)] == ["noon"]


def test_an_operators_patterns() -> None:
    """Hidden by their own name, in digits of all scripts, beside what was found."""
    text = "Ann has B-12345 and B-\u0661\u0662\u0663\u0664\u0665"
    own = spec(patterns={"BADGE": compiled("B-[0-9]{5}")})
    kept = withheld(text, named(text, ("Ann", "PERSON")), own)
    assert redact(text, kept).text == "[PERSON_1] has [BADGE_1] and [BADGE_2]"


def test_a_bundle_without_entities_hides_nothing(bundle: Bundle) -> None:
    """It is refused, not trusted."""
    manifest = bundle.manifest.model_copy(update={"entities": []})
    with pytest.raises(BundleError, match="no entities"):
        Finder(replace(bundle, manifest=manifest))
