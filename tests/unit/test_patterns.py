"""Checked patterns: what has a checksum or an unmistakable shape, and nothing else."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.inference import patterns
from agent.inference.patterns import FINDERS, IBAN_LENGTHS, find, iban, luhn

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
    "00:1a:2b:3c:4d:5e",  # a network card
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


def test_every_repetition_is_bounded() -> None:
    """No pattern repeats without a limit, so the work at each place is bounded."""
    compiled = [
        value for value in vars(patterns).values() if isinstance(value, re.Pattern)
    ]
    assert len(compiled) > 8
    for pattern in compiled:
        plain = re.sub(r"\\.|\[(?:\\.|[^\]\\])*\]", "", pattern.pattern)
        assert not re.search(r"[*+]|\{\d*,\}", plain), pattern.pattern


HOSTILE = ["1", "1 ", "1-", "a.", "a-", "a@", "a", ":", "1:", "1.", "+1", "DE89 ", "@"]
HOSTILE += ["http://", "www.", "(((", "a.a/", "(1", "x)", "'a", "GB82W", "a.com", "ab:"]


@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_text_takes_one_pass(unit: str) -> None:
    """Ten thousand characters of what almost matches are read within the timeout."""
    for ending in ("", "!", "x", "@", "."):
        find((unit * 10_000)[:10_000] + ending, ALL)
