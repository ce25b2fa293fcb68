"""Personal data that patterns find: by checksum, by shape, or by the words before it.

Every pattern reads a folded text (folding.py), begins at a boundary, and has bounded
repetitions, no two of which stand side by side and match the same character; a
repetition without a bound ends a pattern and takes what it matched. So the work for a
text is linear in its length, however hostile it is.
"""

import re
from collections import Counter
from collections.abc import Callable, Container, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from itertools import pairwise

from agent.core.types import CheckedKind, Entity
from agent.inference import identifiers, lexicon, logs, places, scripts, secrets, spoken
from agent.inference.folding import Spans, folded

CHECKED = 0.99  # of what carries a checksum or a shape that nothing else has
LIKELY = 0.9  # of what the words around it give away

# The length of an IBAN and whose it is: the SWIFT registry (ISO 13616).
_IBAN_COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FI FK FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB NI PL",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
IBAN_LENGTHS = {
    country: size
    for size, countries in _IBAN_COUNTRIES.items()
    for country in countries.split()
}

# First and last prefix of a brand, and the lengths of its numbers.
BRANDS = (
    ("4", "4", {13, 16, 19}),  # Visa
    ("51", "55", {16}),  # Mastercard
    ("2221", "2720", {16}),
    ("34", "34", {15}),  # American Express
    ("37", "37", {15}),
    ("300", "305", {14, 16}),  # Diners Club
    ("36", "36", {14, 16}),
    ("38", "39", {14, 16}),
    ("6011", "6011", {16, 17, 18, 19}),  # Discover
    ("644", "649", {16, 17, 18, 19}),
    ("65", "65", {16, 17, 18, 19}),
    ("62", "62", {16, 17, 18, 19}),  # UnionPay
    ("3528", "3589", {16, 17, 18, 19}),  # JCB
    ("1800", "1800", {15}),
    ("2131", "2131", {15}),
    ("50", "50", {13, 14, 15, 16, 17, 18, 19}),  # Maestro
    ("56", "58", {13, 14, 15, 16, 17, 18, 19}),
    ("63", "63", {13, 14, 15, 16, 17, 18, 19}),
    ("67", "67", {13, 14, 15, 16, 17, 18, 19}),
)

# What ends a bare domain: common enough, and seldom the ending of a file.
_ENDINGS = """
com net org edu gov mil int info biz io dev app ai eu uk us ca de fr it es nl be ch at
pl se dk fi cz sk hu ro hr si bg gr pt ie ru ua tr il br mx ar cl co jp cn kr in au nz
za ke ng xyz online shop tech store site cloud tv me nu lu lt lv ee is sg hk tw th vn
id my ph pk ae sa eg ma no
"""
# These are English words as well ("forget.it"): they need more proof.
_WORDS = "at be id in is it me my no us"
TOP_LEVEL = frozenset(_ENDINGS.split())
DOUBTFUL = frozenset(_WORDS.split())
NO_DOMAINS = frozenset({"ado.net", "asp.net", "vb.net"})

PHONE_DIGITS = range(8, 16)  # with the country code (ITU-T E.164)

_LABEL = r"[a-z0-9](?:[a-z0-9\-]{0,61}[a-z0-9])?"
_HOST = rf"(?:{_LABEL}\.){{1,6}}[a-z]{{2,24}}"

_GROUP = re.compile(r"\d+")
_WORD_OR_HYPHEN = re.compile(r"[\w\-]")
_BETWEEN = re.compile(r"\r\n|[ \-.\t\n]{1,2}")
CARD_DIGITS = range(13, 20)
_IBAN = re.compile(
    r"(?<!\w)[A-Z]{2}\d\d(?:[ \-.\t\r\n]{0,2}[A-Z0-9]){11,30}", re.IGNORECASE
)
_EMAIL = re.compile(
    rf"(?<![\w.%+\-])[\w%+\-][\w.%+\-']{{0,63}}@{_HOST}(?![a-z0-9\-])", re.IGNORECASE
)
_V4 = re.compile(r"(?<![\w.\-])\d{1,3}(?:\.\d{1,3}){3}(?![\w\-]|\.\d)")
_V6 = re.compile(
    r"(?<![\w:.])[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,8}(?:(?:\.\d{1,3}){3})?"
    r"(?![\w:]|\.\d)",
    re.IGNORECASE,
)
_SSN = re.compile(
    r"(?<![\w\-])(\d{3})([ .]{1,2}|-{1,2}| - |\r?\n)(\d\d)\2(\d{4})(?![\w\-]|\.\d)"
)
# Up to white space: what is behind a comma or a bracket is of the address, too.
_TAIL = r"[^\s<>\"`]"
_URL = re.compile(
    rf"(?<![\w@])(?:[a-z][a-z0-9+.\-]{{1,20}}://|www\.){_TAIL}*", re.IGNORECASE
)
_DOMAIN = re.compile(
    rf"(?<![\w@.\-/\\])({_HOST})(?![a-z0-9@\-_(]|\.[a-z0-9])", re.IGNORECASE
)
_PATH = re.compile(rf"[/?#]{_TAIL}*")
# "a.org,b.org": with the comma another address begins.
_NEXT = re.compile(r",(?=(?:[a-z][a-z0-9+.\-]{1,20}://|www\.))", re.IGNORECASE)
_EXTENSION = r"(?:[ ,]{0,2}(?:x|ext\.?|extension)[ .]{0,2}\d{1,6})?(?![\w\-])"
_SPACE = r"(?: {1,2}|\n)"
_INTERNATIONAL = re.compile(
    r"(?<![\w+])\+[1-9](?:[ .\-/()\n]{0,3}\d){7,16}" + _EXTENSION, re.IGNORECASE
)
# North American numbers: the same mark, or the same space, in both places.
_NATIONAL = re.compile(
    r"(?<![\w.\-+])(?<!\d )(?:(?:\+?1|001)[ .\-])?"
    rf"(?:\([2-9]\d\d\)(?:[.\-]|{_SPACE})?\d{{3}}(?:[.\-]|{_SPACE})\d{{4}}"
    r"|[2-9]\d\d(?:-[2-9]\d\d[.\-]\d{4}|\.\d{3}\.\d{4}|"
    rf"{_SPACE}[2-9]\d\d{_SPACE}\d{{4}}))"
    r"(?![ .]?\d)" + _EXTENSION,
    re.IGNORECASE,
)
_ENDS = ".,;:!?*_~'|\\"
_CLOSING = {")": "(", "]": "[", "}": "{"}
_VERSION = re.compile(
    r"(?:\bv|\bver|version|release|build|firmware|section|revision)[ .:]{0,2}$",
    re.IGNORECASE,
)
BEFORE = 16  # characters in which a word such as "version" may stand


def luhn(digits: str) -> bool:
    """Tell whether the last digit is the check digit of the others (ISO/IEC 7812)."""
    # A doubled digit counts as the sum of its own digits.
    doubled = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
    single = sum(int(digit) for digit in digits[-1::-2])
    return (single + sum(doubled[int(digit)] for digit in digits[-2::-2])) % 10 == 0


def card_brand(digits: str) -> bool:
    """Tell whether a card brand issues numbers of this beginning and length."""
    return any(
        len(digits) in sizes and first <= digits[: len(first)] <= last
        for first, last, sizes in BRANDS
    )


def iban(text: str) -> bool:
    """Tell whether letters and digits without separators are an IBAN (ISO 13616)."""
    if IBAN_LENGTHS.get(text[:2]) != len(text):
        return False
    turned = text[4:] + text[:4]
    return int("".join(str(int(char, 36)) for char in turned)) % 97 == 1


def _cards(text: str) -> Spans:
    groups = list(_GROUP.finditer(text))
    joined = [
        _BETWEEN.fullmatch(text, one.end(), other.start()) is not None
        for one, other in pairwise(groups)
    ]
    end = 0
    for first, group in enumerate(groups):
        if group.start() < end or _within_word(text, group.start()):
            continue
        last = _card_end(text, groups, joined, first)
        if last is not None:
            end = last
            yield group.start(), end


def _card_end(
    text: str, groups: Sequence[re.Match[str]], joined: Sequence[bool], first: int
) -> int | None:
    """Return where the longest card number ends that begins with a group of digits."""
    digits, end = "", None
    for place in range(first, len(groups)):
        digits += groups[place][0][: CARD_DIGITS.stop + 1]
        if len(digits) >= CARD_DIGITS.stop:
            break
        if len(digits) in CARD_DIGITS and _is_card(digits):
            after = groups[place].end()
            if not _WORD_OR_HYPHEN.match(text, after):
                end = after
        if place == len(joined) or not joined[place]:
            break
    return end


def _is_card(digits: str) -> bool:
    return card_brand(digits) and luhn(digits) and len(set(digits)) > 1


def _within_word(text: str, start: int) -> bool:
    before = text[start - 1 : start]
    return before == "_" or before.isalnum() or (before != "" and before in ".-")


def _ibans(text: str) -> Spans:
    for match in _IBAN.finditer(text):
        length = IBAN_LENGTHS.get(match[0][:2].upper())
        if length is None:
            continue
        # What follows the last character may be the next word: count to the length.
        kept = ""
        for place, char in enumerate(match[0], match.start()):
            if not char.isalnum():
                continue
            kept += char.upper()
            if len(kept) == length:
                end = place + 1
                whole = kept.isascii() and not text[end : end + 1].isalnum()
                if whole and iban(kept):
                    yield match.start(), end
                break


def _emails(text: str) -> Spans:
    for match in _EMAIL.finditer(text):
        local = match[0].partition("@")[0]
        if not local.endswith(".") and ".." not in local:
            yield match.span()


def _addresses(text: str) -> Spans:
    for match in _V4.finditer(text):
        before = text[max(0, match.start() - BEFORE) : match.start()]
        if _VERSION.search(before):
            continue
        try:
            IPv4Address(match[0])
        except AddressValueError:
            continue
        yield match.span()
    for match in _V6.finditer(text):
        try:
            address = IPv6Address(match[0])
        except AddressValueError:
            continue
        # "::" alone is an address, but in a text it is punctuation.
        if int(address) > 0 and any(char.isdigit() for char in match[0]):
            yield match.span()


def _numbers(text: str) -> Spans:
    for match in _SSN.finditer(text):
        area, _, group, serial = match.groups()
        if area in {"000", "666"} or area >= "900" or group == "00":
            continue
        if serial != "0000":
            yield match.span()


def _familiar(host: str, path: str) -> bool:
    """Tell whether a bare name ends as a domain does, and looks like none else."""
    *names, last = host.split(".")
    # "the end.No more": what begins with a capital is a sentence.
    if not (last.islower() or host.isupper()) or host.lower() in NO_DOMAINS:
        return False
    last = last.lower()
    if last not in TOP_LEVEL or not any(char.isalpha() for char in names[-1]):
        return False
    if last not in DOUBTFUL or path or not names[-1].isalpha():
        return True
    return len(names) > 1 and len(names[-1]) > 1  # and not "i.e.it"


def _domains(text: str) -> Spans:
    for match in _URL.finditer(text):
        yield from _urls(match)
    at = 0
    while (host := _DOMAIN.search(text, at)) is not None:
        path = _PATH.match(text, host.end())
        tail = _trimmed(path[0]) if path else ""
        at = host.end()
        if _familiar(host[1], tail):
            at += len(tail)
            yield host.start(), at


def _urls(match: re.Match[str]) -> Spans:
    """Yield the addresses of a run of characters without white space."""
    start = match.start()
    for part in _NEXT.split(match[0]):
        trimmed = _trimmed(part)
        host = re.sub(r"^[a-z][a-z0-9+.\-]*://", "", trimmed, flags=re.IGNORECASE)
        if any(char.isalnum() for char in host):
            yield start, start + len(trimmed)
        start += len(part) + 1


def _trimmed(url: str) -> str:
    """Return an address without the punctuation of the sentence around it."""
    counts = Counter(char for char in url if char in "()[]{}")
    end = len(url)
    while end:
        last = url[end - 1]
        if last in _CLOSING:
            if counts[_CLOSING[last]] >= counts[last]:  # it was opened in the address
                break
            counts[last] -= 1
        elif last not in _ENDS:
            break
        end -= 1
    return url[:end]


def _phones(text: str) -> Spans:
    for match in _INTERNATIONAL.finditer(text):
        number = re.split(r"[xe]", match[0].lower())[0]
        balanced = number.count("(") == number.count(")")
        if balanced and sum(char.isdigit() for char in number) in PHONE_DIGITS:
            yield match.span()
    for match in _NATIONAL.finditer(text):
        yield match.span()


# In the order of trust: of two that are equally long, the earlier one stays.
FINDERS: dict[CheckedKind, Callable[[str], Spans]] = {
    CheckedKind.IBAN_CODE: _ibans,
    CheckedKind.CREDIT_CARD: _cards,
    CheckedKind.EMAIL_ADDRESS: _emails,
    CheckedKind.IP_ADDRESS: _addresses,
    CheckedKind.US_SSN: _numbers,
    CheckedKind.DOMAIN_NAME: _domains,
    CheckedKind.PHONE_NUMBER: _phones,
    CheckedKind.MAC_ADDRESS: places.macs,
    CheckedKind.LOCATION: places.coordinates,
}
# What only the words around it give away.
LIKELY_FINDERS: tuple[tuple[str, Callable[[str], Spans]], ...] = (
    ("SECRET", secrets.secrets),
    ("ID_NUMBER", identifiers.numbers),
    ("HANDLE", identifiers.handles),
    ("PHONE_NUMBER", spoken.phones),
    ("ID_NUMBER", spoken.numbers),
    ("EMAIL_ADDRESS", spoken.emails),
    ("DOMAIN_NAME", spoken.hosts),
    ("DATE_TIME", logs.times),
    ("PhysicalObject", lexicon.tags),
)
# All that is personal.
KINDS = frozenset(
    {*FINDERS, *(kind for kind, _ in LIKELY_FINDERS), scripts.LABEL}
    - {"PhysicalObject"}
)


def find(text: str, labels: Container[str]) -> list[Entity]:
    """Return the entities of these labels: by start, none over a longer one."""
    view = folded(text)
    entities = []
    for finders, score in ((FINDERS.items(), CHECKED), (LIKELY_FINDERS, LIKELY)):
        for label, finder in finders:
            if label not in labels:
                continue
            for place in finder(view.text):
                start, end = view.span(*place)
                entities.append(Entity(str(label), text[start:end], start, end, score))
    if scripts.LABEL in labels:
        entities += [
            Entity(scripts.LABEL, text[start:end], start, end, LIKELY)
            for start, end in scripts.runs(text)
        ]
    return _apart(text, entities)


def is_proven(entity: Entity) -> bool:
    """Tell whether a find proves itself, and no model's guess says more."""
    return entity.label in FINDERS and (entity.score or 0.0) >= CHECKED


def checked(words: str, kind: CheckedKind) -> bool:
    """Tell whether words are of a kind in `FINDERS`, as a whole."""
    view = folded(words).text
    return any((0, len(view)) == place for place in FINDERS[kind](view))


def _apart(text: str, entities: Sequence[Entity]) -> list[Entity]:
    """Return entities by start, without those that lie over a longer one."""
    taken = bytearray(len(text))
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda entity: entity.start - entity.end):
        if not any(taken[entity.start : entity.end]):
            taken[entity.start : entity.end] = b"\1" * (entity.end - entity.start)
            kept.append(entity)
    return sorted(kept, key=lambda entity: entity.start)
