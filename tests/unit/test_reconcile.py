"""Guesses of a model and finds of patterns, made one."""

import pytest

from agent.core.types import Entity
from agent.inference.reconcile import blocks, joined, plausible, reconciled

LINE = '2024-03-18 02:14:55,903 ERROR [db] timeout user="ann"'


def entity(text: str, words: str, label: str, score: float = 0.5) -> Entity:
    """Return an entity by its words, at their first place."""
    start = text.index(words)
    return Entity(label, words, start, start + len(words), score)


@pytest.mark.parametrize(
    ("guessed", "checked", "kept"),
    [
        ([(0, 4)], [], [(0, 4)]),
        ([], [(0, 4)], [(0, 4)]),
        ([(0, 4), (8, 9)], [(4, 8)], [(0, 4), (4, 8), (8, 9)]),  # they only touch
        ([(0, 5), (8, 9)], [(4, 8)], [(4, 8), (8, 9)]),
        ([(5, 6)], [(4, 8)], [(4, 8)]),
        ([(0, 20)], [(4, 8), (10, 12)], [(4, 8), (10, 12)]),
    ],
)
def test_a_proven_find_replaces_guesses(
    guessed: list[tuple[int, int]],
    checked: list[tuple[int, int]],
    kept: list[tuple[int, int]],
) -> None:
    """One shared character is an overlap; the result is in the order of the text."""
    found = joined(
        "x" * 20,
        [Entity("g", "", start, end, 0.5) for start, end in guessed],
        [Entity("US_SSN", "", start, end, 0.99) for start, end in checked],
    )
    assert [(e.start, e.end) for e in found] == kept


@pytest.mark.parametrize(
    ("guessed", "likely", "expected"),
    [
        ([(0, 5)], [(4, 8)], [(0, 8, "g")]),
        ([(0, 3)], [(2, 8)], [(0, 8, "ID_NUMBER")]),
        ([(4, 8)], [(4, 8)], [(4, 8, "g")]),
        ([(0, 12)], [(2, 4), (6, 8)], [(0, 12, "g")]),
        ([(0, 3), (5, 9)], [(2, 6)], [(0, 9, "ID_NUMBER")]),
        ([(0, 2)], [(4, 8)], [(0, 2, "g"), (4, 8, "ID_NUMBER")]),
    ],
)
def test_a_likely_find_and_guesses_are_one(
    guessed: list[tuple[int, int]],
    likely: list[tuple[int, int]],
    expected: list[tuple[int, int, str]],
) -> None:
    """All that overlap are hidden as one, by the name of the longest."""
    found = joined(
        "x" * 20,
        [Entity("g", "", start, end, 0.5) for start, end in guessed],
        [Entity("ID_NUMBER", "", start, end, 0.9) for start, end in likely],
    )
    assert [(e.start, e.end, e.label) for e in found] == expected


@pytest.mark.parametrize(
    ("line", "stamp"),
    [
        (LINE, "2024-03-18 02:14:55,903"),
        ("Mar 18 02:14:55 edge sshd[1]: done", "Mar 18 02:14:55"),
        ('1.2.3.4 - - [18/Mar/2024:02:14:55 +0000] "GET / HTTP/1.1"', "18/Mar/2024"),
        ("1710728095 INFO rx 512 bytes", "1710728095"),
        ('{"ts":"2024-03-18T02:14:55Z","level":"warn"}', "2024-03-18T02:14:55Z"),
        ("I0318 02:14:55.120394 7 controller.go:116] done", "02:14:55.120394"),
    ],
)
def test_a_time_stamp_of_a_log_is_nobody(line: str, stamp: str) -> None:
    """Whatever a model takes it for, it goes; the rest of the line stays."""
    other = entity(line, line.rsplit(maxsplit=1)[-1], "PERSON")
    guessed = [entity(line, stamp, "US_SSN"), other]
    assert plausible(line, guessed) == [other]


@pytest.mark.parametrize(
    "note", ["2024-03-18 02:14:55 Ann called", "on 2024-03-18 02:14:55 an error came"]
)
def test_a_time_in_a_note_stays(note: str) -> None:
    """Without the marks of a log a time is a time."""
    guess = entity(note, "2024-03-18 02:14:55", "DATE_TIME")
    assert plausible(note, [guess]) == [guess]


@pytest.mark.parametrize(
    ("words", "label", "fits"),
    [
        ("HTTP", "DOMAIN_NAME", False),
        ("a.org", "DOMAIN_NAME", True),
        ("mqtt", "US_SSN", False),
        ("078-05", "US_SSN", True),
        ("[", "DATE_TIME", False),
        ("ann at home", "EMAIL_ADDRESS", True),
        ("ann", "EMAIL_ADDRESS", False),
        ("ann", "PERSON", True),
    ],
)
def test_a_guess_must_fit_its_type(words: str, label: str, *, fits: bool) -> None:
    """A number has digits, a host a dot; a mark alone is nothing."""
    guess = Entity(label, words, 0, len(words), 0.5)
    assert plausible(words, [guess]) == ([guess] if fits else [])


STREET = "to 12 Main St, Springfield, IL 62704 now"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (
            [
                "12 Main St/STREET_ADDRESS",
                "Springfield/GPE",
                "IL/GPE",
                "62704/ZIP_CODE",
            ],
            ["12 Main St, Springfield, IL 62704/STREET_ADDRESS"],
        ),
        (["12 Main St/STREET_ADDRESS"], ["12 Main St/STREET_ADDRESS"]),
        (["Springfield/GPE", "IL/GPE"], ["Springfield/GPE", "IL/GPE"]),
        (
            ["12 Main St/STREET_ADDRESS", "IL/GPE"],
            ["12 Main St/STREET_ADDRESS", "IL/GPE"],
        ),
        (
            ["12 Main St/STREET_ADDRESS", "Springfield/PERSON"],
            ["12 Main St/STREET_ADDRESS", "Springfield/PERSON"],
        ),
    ],
)
def test_an_address_is_one_block(parts: list[str], expected: list[str]) -> None:
    """A street and the places beside it are one; places alone stay apart."""
    given = [entity(STREET, *part.split("/")) for part in parts]
    made = [f"{e.text}/{e.label}" for e in blocks(STREET, given)]
    assert made == expected
    assert all(STREET[e.start : e.end] == e.text for e in blocks(STREET, given))


def test_words_between_keep_an_address_apart() -> None:
    """A street "in" a town is two things, and so is one at the end of a sentence."""
    for text in ("12 Main St in Springfield", "12 Main St. Springfield"):
        parts = [
            entity(text, "12 Main St", "STREET_ADDRESS"),
            entity(text, "Springfield", "GPE"),
        ]
        assert list(blocks(text, parts)) == parts


def test_all_together() -> None:
    """A guess that the patterns correct, one that they widen, one that stays."""
    text = "Ann: card 4111 1111 1111 1111, passport no. X1234567"
    guessed = [
        entity(text, "Ann", "PERSON"),
        entity(text, "1111 1111", "PHONE_NUMBER"),
        entity(text, "X123", "US_DRIVER_LICENSE"),
    ]
    found = reconciled(text, guessed, {"CREDIT_CARD", "ID_NUMBER"})
    assert [(e.text, e.label) for e in found] == [
        ("Ann", "PERSON"),
        ("4111 1111 1111 1111", "CREDIT_CARD"),
        ("X1234567", "ID_NUMBER"),
    ]


def test_numbers_of_a_log_are_the_machines() -> None:
    """On its lines a guessed number goes; a name, a long number, a find stay."""
    line = "2024-03-18 02:14:55 WARN pump 8821 for Ann, 188273641, +49 30 9018200"
    guessed = [
        entity(line, "8821", "ZIP_CODE"),
        entity(line, "Ann", "PERSON"),
        entity(line, "188273641", "PHONE_NUMBER"),
        entity(line, "+49 30 9018200", "PHONE_NUMBER"),
    ]
    kept = ["Ann", "+49 30 9018200"]
    assert [e.text for e in plausible(line, guessed)] == kept
    within = f"seen 8821:\n{line}"
    assert plausible(within, [entity(within, "8821", "ZIP_CODE")]) != []


@pytest.mark.parametrize(
    "note",
    [
        "2024-03-18 02:14:55 client Ann Smith, age 47, zip 90210",
        "02:14:55 an error was told to me by Ann, zip 90210",
        "Ann, zip 90210, 2024-03-18",
        "level=info zip 90210",
    ],
)
def test_a_note_is_no_log(note: str) -> None:
    """A time in front, or a word of logs, does not make one."""
    guess = entity(note, "90210", "ZIP_CODE")
    assert plausible(note, [guess]) == [guess]
