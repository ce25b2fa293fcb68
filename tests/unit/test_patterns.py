"""Patterns that prove themselves: a checksum or an unmistakable shape, nothing else."""

import re
import string
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.inference import identifiers, logs, patterns, places, secrets, spoken
from agent.inference.patterns import FINDERS, IBAN_LENGTHS, KINDS, find, iban, luhn

ALL = frozenset(FINDERS)
# Small letters and digits of other scripts, which some patterns take for ours.
ODD = "\N{LATIN SMALL LETTER LONG S}\N{KELVIN SIGN}\u0661\u0130\u07c0\u4e2d\xb2"

FOUND = [
    ("CREDIT_CARD", "4111111111111111"),
    ("CREDIT_CARD", "4111 1111 1111 1111"),
    ("CREDIT_CARD", "4111-1111-1111-1111"),
    ("CREDIT_CARD", "4222222222222"),
    ("CREDIT_CARD", "5555555555554444"),
    ("CREDIT_CARD", "2223 0031 2200 3222"),
    ("CREDIT_CARD", "3782 822463 10005"),
    ("CREDIT_CARD", "6011111111111117"),
    ("CREDIT_CARD", "3530111333300000"),
    ("CREDIT_CARD", "30569309025904"),
    ("IBAN_CODE", "DE89370400440532013000"),
    ("IBAN_CODE", "DE89 3704 0044 0532 0130 00"),
    ("IBAN_CODE", "GB82 WEST 1234 5698 7654 32"),
    ("IBAN_CODE", "gb82west12345698765432"),
    ("IBAN_CODE", "NO9386011117947"),
    ("IBAN_CODE", "FR14-2004-1010-0505-0001-3M02-606"),
    ("EMAIL_ADDRESS", "jane.doe@example.com"),
    ("EMAIL_ADDRESS", "j+news_2@mail.example.co.uk"),
    ("EMAIL_ADDRESS", "O'Brien@Example.ORG"),
    ("IP_ADDRESS", "192.168.0.1"),
    ("IP_ADDRESS", "10.0.0.1"),
    ("IP_ADDRESS", "2001:db8::ff00:42:8329"),
    ("IP_ADDRESS", "fe80:0:0:0:204:61ff:fe9d:f156"),
    ("IP_ADDRESS", "::1"),
    ("IP_ADDRESS", "::ffff:192.0.2.128"),
    ("US_SSN", "123-45-6789"),
    ("US_SSN", "856 45 6789"),
    ("DOMAIN_NAME", "https://www.example.com/a/b?c=d#e"),
    ("DOMAIN_NAME", "http://localhost:8080/x"),
    ("DOMAIN_NAME", "www.example.museum"),
    ("DOMAIN_NAME", "example.com"),
    ("DOMAIN_NAME", "Example.com"),
    ("DOMAIN_NAME", "EXAMPLE.COM"),
    ("DOMAIN_NAME", "shop.my-example.co.uk"),
    ("DOMAIN_NAME", "github.com/a/b"),
    ("DOMAIN_NAME", "youtu.be/dQw4w9"),
    ("DOMAIN_NAME", "repubblica24.it"),
    ("PHONE_NUMBER", "+49 30 901820"),
    ("PHONE_NUMBER", "+442079460958"),
    ("PHONE_NUMBER", "+44 (0)20 7946 0958"),
    ("PHONE_NUMBER", "+1-202-555-0143 ext. 12"),
    ("PHONE_NUMBER", "(202) 555-0143"),
    ("PHONE_NUMBER", "202-555-0143"),
    ("PHONE_NUMBER", "202-555-0143x77"),
    ("PHONE_NUMBER", "1-800-555-0143"),
    ("PHONE_NUMBER", "202.555.0143"),
    ("PHONE_NUMBER", "202 555 0143"),
    ("PHONE_NUMBER", "(202) 555 0143"),
    ("PHONE_NUMBER", "001-202-555-0143x12"),
    ("PHONE_NUMBER", "+1-202-555-0143"),
    ("MAC_ADDRESS", "00:1a:2b:3c:4d:5e"),
    ("MAC_ADDRESS", "3C-22-FB-7A-91-0E"),
    ("MAC_ADDRESS", "001a.2b3c.4d5e"),
    ("LOCATION", "-31.9523, 115.8613"),
    ("LOCATION", "51.5074 -0.1278"),
    ("LOCATION", "52.52N, 13.40E"),
    ("LOCATION", "40°26'46\"N 79°58'56\"W"),
    ("LOCATION", "geo:37.786971,-122.399677"),
    ("LOCATION", "8FVC9G8F+6X"),
    ("LOCATION", "///filled.count.soap"),
]

NOT_FOUND = [
    "4111 1111 1111 1112",  # the check digit
    "9111111111111111",  # no brand
    "0000 0000 0000 0000",
    "order 411111111111",  # too short
    "x4111111111111111",
    "4111111111111111-2",
    "DE89370400440532013001",  # the check digits
    "DE8937040044053201300",  # too short
    "XX89370400440532013000",  # no country
    "AB12CDEF",
    "jane@localhost",
    "jane@@example",
    "@jane",
    "1.2.3",
    "v1.2.3.4",
    "version 10.0.0.1",
    "Firmware: 2.10.0.7",
    "1.2.3.4.5",
    "256.1.1.1",
    "10.0.0.1-rc2",
    "12:30:45",
    "std::vector",
    "a :: b",
    "00:00:00:00:00:00",  # no network card
    "1.000 0.500 0.250",
    "12.50, 30.25",
    "95.1234, 10.1234",  # no latitude
    "000-12-3456",
    "666-12-3456",
    "912-12-3456",
    "123-00-4567",
    "123-45-0000",
    "123 45-6789",
    "123456789",
    "report.pdf",
    "main.py",
    "e.g. this",
    "i.e.it",
    "at 5 p.m.",
    "U.S.",
    "the end.It was",
    "the end.In May",
    "forget.it",
    "ASP.NET",
    "3.14",
    "node.js and index.html",
    "+1",
    "+100",
    "2 + 12345678",
    "555-0143",
    "(202) 555",
    "2024-05-17",
    "100-200-3000",
    "500 100 1000 points",
    "300 400 5000 600",
    "10 202 555 0143",
    "1.202.555.0143.7",
    "5 items, 20 % off, $1,299.00",
    "call 911",
    "Room 12-345, part 202-555-01434",
]


def spans(text: str) -> list[tuple[str, str]]:
    """Return label and text of what is found."""
    return [(entity.label, entity.text) for entity in find(text, ALL)]


@pytest.mark.parametrize(("label", "value"), FOUND)
@pytest.mark.parametrize("frame", ["{}", "It is {}.", "({})", "a\n{}, b", 'say "{}"!'])
def test_a_value_is_found_whole(label: str, value: str, frame: str) -> None:
    """A checked value is found as it stands, without the punctuation around it."""
    assert spans(frame.format(value)) == [(label, value)]


@pytest.mark.parametrize("text", NOT_FOUND)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    """A wrong check digit, a version, a file name or a word is no personal data."""
    assert find(text, ALL) == []


def test_offsets_and_order() -> None:
    """Entities come by start, and their offsets cut out their text."""
    text = "Mail a@example.org, call +49 30 901820, see example.org or 10.1.2.3."
    found = find(text, ALL)
    assert [entity.label for entity in found] == [
        "EMAIL_ADDRESS",
        "PHONE_NUMBER",
        "DOMAIN_NAME",
        "IP_ADDRESS",
    ]
    assert all(text[entity.start : entity.end] == entity.text for entity in found)


def test_only_the_labels_asked_for() -> None:
    """A label that the bundle does not have is not looked for."""
    text = "a@example.org 10.1.2.3"
    assert [entity.label for entity in find(text, {"IP_ADDRESS"})] == ["IP_ADDRESS"]
    assert find("a@example.org", {"DOMAIN_NAME"}) == []
    assert find(text, {"PERSON"}) == []


def test_the_longest_wins() -> None:
    """An address that contains another one is one entity."""
    assert spans("http://10.0.0.1/admin") == [("DOMAIN_NAME", "http://10.0.0.1/admin")]
    assert spans("https://x.com/a@b.com") == [("DOMAIN_NAME", "https://x.com/a@b.com")]


def test_an_iban_ends_where_its_country_says() -> None:
    """The words after an IBAN do not belong to it."""
    text = "from DE89 3704 0044 0532 0130 00 TO ME"
    assert spans(text) == [("IBAN_CODE", "DE89 3704 0044 0532 0130 00")]


def test_checksums() -> None:
    """The examples of the standards pass, and every changed digit fails."""
    assert luhn("79927398713")
    assert not any(luhn(f"7992739871{digit}") for digit in "012456789")
    assert iban("GB82WEST12345698765432")
    assert not iban("GB82WEST12345698765433")
    assert all(15 <= length <= 33 for length in IBAN_LENGTHS.values())


@given(st.text(alphabet=string.printable + ODD, max_size=80))
def test_any_text_is_read(text: str) -> None:
    """No text makes it fail, and what it finds never overlaps."""
    end = 0
    for entity in find(text, ALL):
        assert end <= entity.start < entity.end <= len(text)
        assert text[entity.start : entity.end] == entity.text
        end = entity.end


def in_digits(text: str, zero: str) -> str:
    """Return a text with the decimal digits of another script."""
    return "".join(chr(ord(zero) + int(c)) if c in string.digits else c for c in text)


def fullwidth(text: str) -> str:
    """Return a text in the wide forms of East Asian typesetting."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


FORMS: dict[str, Callable[[str], str]] = {
    "fullwidth": fullwidth,
    "arabic": lambda value: in_digits(value, "\N{ARABIC-INDIC DIGIT ZERO}"),
    "devanagari": lambda value: in_digits(value, "\N{DEVANAGARI DIGIT ZERO}"),
    "thai": lambda value: in_digits(value, "\N{THAI DIGIT ZERO}"),
    "bold": lambda value: in_digits(value, "\N{MATHEMATICAL BOLD DIGIT ZERO}"),
    "keycaps": lambda value: re.sub(r"(\d)", "\\1\ufe0f\u20e3", value),
    "hyphens": lambda value: value.replace("-", "\N{NON-BREAKING HYPHEN}"),
    "dashes": lambda value: value.replace("-", "\N{EN DASH}"),
    "minus": lambda value: value.replace("-", "\N{MINUS SIGN}"),
    "no-break": lambda value: value.replace(" ", "\N{NO-BREAK SPACE}"),
    "thin": lambda value: value.replace(" ", "\N{THIN SPACE}"),
    "zero-width": "\N{ZERO WIDTH SPACE}".join,
    "joiners": "\N{WORD JOINER}".join,
    "soft": "\N{SOFT HYPHEN}".join,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("label", "value"), FOUND)
def test_other_scripts_and_hidden_characters(label: str, value: str, form: str) -> None:
    """However digits, hyphens and spaces are written, a value is found whole."""
    written = FORMS[form](value)
    text = f"é {written} ü"
    [entity] = [e for e in find(text, ALL) if e.label == label]
    assert (entity.start, text[entity.start : entity.end]) == (2, entity.text)
    assert written.startswith(entity.text)
    assert not any(map(str.isalnum, written[len(entity.text) :]))


@pytest.mark.parametrize("gap", ["  ", "\n", "\r\n", "\t"])
def test_gaps_in_a_card(gap: str) -> None:
    """A card number may be broken over lines, or have wide gaps."""
    written = gap.join(("4111", "1111", "1111", "1111"))
    assert spans(f"no {written} ok") == [("CREDIT_CARD", written)]


def test_a_card_among_other_numbers() -> None:
    """Digits in front and behind do not hide a card number."""
    text = "row 12 4111 1111 1111 1111 99"
    assert spans(text) == [("CREDIT_CARD", "4111 1111 1111 1111")]


URL = "https://portal.example.com/reset?user=ann&token=" + "aB3,[x]|{y}'z^" * 60


@pytest.mark.parametrize("frame", ["{}", "see {} now", "({}).", "<{}>", '"{}",'])
def test_an_address_goes_up_to_white_space(frame: str) -> None:
    """What is behind a comma or a bracket, or after 400 characters, is of it, too."""
    assert spans(frame.format(URL)) == [("DOMAIN_NAME", URL)]


def test_addresses_side_by_side() -> None:
    """With a comma in front of it another address begins."""
    found = [words for _, words in spans("http://a.org,http://b.org/c,www.d.org")]
    assert found == ["http://a.org", "http://b.org/c", "www.d.org"]


def test_every_repetition_is_bounded() -> None:
    """No pattern repeats without a limit but at its end: work at a place is bounded."""
    modules = (patterns, identifiers, places, secrets, spoken, logs)
    compiled = [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, re.Pattern)
    ]
    assert len(compiled) > 30
    for pattern in compiled:
        plain = re.sub(r"\\.|\[(?:\\.|[^\]\\])*\]", "c", pattern.pattern)
        assert not re.search(r"(?:[*+]|\{\d*,\})(?!\)?$)", plain), pattern.pattern


HOSTILE = ["1", "1 ", "1-", "a.", "a-", "a@", "a", ":", "1:", "1.", "+1", "DE89 ", "@"]
HOSTILE += ["http://", "www.", "(((", "a.a/", "(1", "x)", "'a", "GB82W", "a.com", "ab:"]
HOSTILE += [
    "http://a.b)",
    "http://a,",
    "password ",
    "pin is ",
    "pw:",
    "booking no ",
    "#",
]
HOSTILE += [
    "one ",
    "one two ",
    "@a",
    "u/",
    "A1",
    "aB3",
    "eyJ",
    "sk-",
    "///a.b",
    "4 ",
    "_",
]
HOSTILE += [
    "1.1111,",
    "40°",
    "00:",
    "a dot ",
    "a at ",
    "plate A1 ",
    "insta is ",
    "code ",
]
HOSTILE += [
    "-----BEGIN PRIVATE KEY-----",
    "Я",
    "Я ",
    "\u200b",
    "\ufdfa",
    "٤",
    "2024-01-01 ",
]
HOSTILE += ["case no: ", "for the x ", "ending in ", "/home/", "user=", "a.com/a.com/"]


@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_text_takes_one_pass(unit: str) -> None:
    """Twice what almost matches takes about twice as long, and a moment."""
    took = []
    for size in (10_000, 20_000):
        begun = time.process_time()
        for ending in ("", "!", "x", "@", ".", " is 1"):
            text = (unit * size)[:size] + ending
            find(text, KINDS)
            list(logs.lines(text))
        took.append(time.process_time() - begun)
    assert took[1] < 3 * took[0] + 1.0  # other processes have the caches
    assert took[1] < 12
