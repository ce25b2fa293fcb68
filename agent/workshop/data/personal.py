"""Invented texts with personal data in them, to train a model that finds such data.

A text is one or more filled templates (`personal/*.txt`) or a list of fields, seen
through the noise of real writing. In a template `{name}` is a slot of
`personal_values.SLOTS`, `[a|b|]` a choice, and a backslash with n a new line. The
templates of `negatives.txt` have no personal data in them, only what looks like it.
"""

# ruff: noqa: PLR2004 - shares of the whole, each said once and beside what it shares

import random
import re
import string
import unicodedata
import zlib
from collections.abc import Sequence
from functools import cache

from agent.core.types import Entity
from agent.evaluation.examples import Example, Span
from agent.inference.reconcile import blocks
from agent.workshop.data.noise import noisy
from agent.workshop.data.personal_values import HERE, SLOTS, Piece, Source, open_source

NEGATIVE = "negatives"
LOGS = "logs"
HARMLESS = 0.15  # of the texts
LOGGED = 0.05  # of the others: lines of logs
FIELDS = 0.1  # of the others: forms, lists and rows instead of sentences
BALANCED = 0.5  # of the others: by a label, so that the rare ones are not
BALANCED_SLOTS = (  # one set for each label, but for those that come by themselves
    *(
        {"title", "titled"},
        {"address"},
        {"street"},
        {"gpe", "city", "country", "state"},
    ),
    *({"zip"}, {"org", "company", "school", "band", "agency", "hospital"}, {"nrp"}),
    *({"known", "firm", "shop"}, {"when"}, {"first"}),
    *({"nrps"}, {"age"}, {"phone"}, {"email"}, {"domain", "url"}, {"ip"}, {"iban"}),
    *({"card"}, {"ssn"}, {"license"}, {"any"}),
)
KEPT = 8  # one template of so many never teaches: the texts that validate use these
JOINED = (1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 4, 6)  # templates in a text

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_VOWEL = re.compile(r"(?!eu)[aeio]", re.IGNORECASE)  # as it sounds: "a European"

# What a form calls a value, and the slot of the value.
FORM: dict[str, tuple[str, ...]] = {
    "full": (
        *("Name", "Full name", "Customer", "Patient", "Contact", "Account holder"),
        *("Passenger", "Applicant", "Cardholder", "Emergency contact", "Signed by"),
        *("Employee", "Attn", "Guest name", "Insured", "Author", "Recipient", "From"),
    ),
    "first": ("First name", "Given name", "Nickname", "first_name", "Preferred name"),
    "last": ("Last name", "Surname", "Family name", "last_name", "Maiden name"),
    "title": ("Title", "Salutation", "Prefix", "Form of address"),
    "address": (
        *("Address", "Home address", "Ship to", "Billing address", "Residence"),
        *("Delivery address", "Mailing address", "Location", "Return address"),
    ),
    "street": ("Street", "Address line 1", "Street address", "street", "Address"),
    "city": ("City", "Town", "Place of birth", "Birthplace", "city", "Departure"),
    "state": ("State", "Province", "State of residence", "state", "Region"),
    "country": (
        "Country",
        "Country of residence",
        "country",
        "Destination",
        "Shipped to",
    ),
    "zip": ("ZIP", "Zip code", "Postal code", "Postcode", "zip", "PLZ", "ZIP Code"),
    "org": ("Company", "Employer", "Organisation", "Organization", "Vendor", "Account"),
    "school": ("School", "University", "Alma mater", "Education"),
    "card": ("Card", "Card number", "Credit card", "CC", "Card no.", "Payment card"),
    "date": ("Date", "Issued", "Expires", "Appointment", "Invoice date", "Hire date"),
    "stamp": ("Timestamp", "Received", "Last login", "Created", "Sent"),
    "birthday": ("DOB", "Date of birth", "Born", "Birthday", "Birth date"),
    "phone": (
        *("Phone", "Tel", "Mobile", "Cell", "Fax", "Telephone", "Phone number", "T"),
        *("Work phone", "Home phone", "WhatsApp", "Contact no.", "Tel."),
    ),
    "age": ("Age", "age", "Patient age", "Age (years)", "AGE"),
    "nrp": (
        "Nationality",
        "Religion",
        "Citizenship",
        "Ethnicity",
        "Party",
        "Denomination",
    ),
    "email": (
        "Email",
        "E-mail",
        "Mail",
        "email",
        "Email address",
        "E",
        "Username",
        "Cc",
    ),
    "domain": (
        "Website",
        "Web",
        "Site",
        "Homepage",
        "URL",
        "Domain",
        "website",
        "Link",
    ),
    "iban": ("IBAN", "Bank account", "Account (IBAN)", "iban", "Payee IBAN", "Acct"),
    "ssn": ("SSN", "Social security number", "SS#", "Social", "ssn", "Tax ID (SSN)"),
    "ip": ("IP", "IP address", "Host", "Client IP", "Server", "Gateway", "Source IP"),
    "license": (
        *("DL", "Driver license", "Driver's license", "License no.", "DL number"),
        *("Driving licence", "License #", "DLN", "Operator license"),
    ),
    # Harmless ones
    "code": ("Order", "Reference", "Ticket", "Customer no.", "Part", "Invoice", "SKU"),
    "number": ("Quantity", "Room", "Seat", "Pages", "Items", "Points", "Floor"),
    "price": ("Total", "Amount", "Balance", "Price", "Due", "Fee"),
    "job": ("Position", "Occupation", "Role", "Profession", "Job title"),
    "disease": ("Diagnosis", "Complaint", "Reason for visit"),
    "item": ("Product", "Item", "Article", "Found"),
    "department": ("Department", "Team", "Unit"),
    "percent": ("Discount", "Tax", "Share", "Progress"),
    "duration": ("Duration", "Warranty", "Length of stay"),
    "version": ("Version", "Firmware", "Software"),
}
PARTS = {"city", "state", "country", "zip"}
COLONS = (
    ": ",
    ": ",
    ": ",
    ":",
    " - ",
    " = ",
    " : ",
    ":\t",
    "=",
    " \N{EN DASH} ",
    ":\n",
)
BREAKS = ("\n", "\n", "\n", "; ", ", ", " | ", " / ", "\n\n", " ", ",")
HEADINGS = (
    *(
        "Customer Details",
        "Please update my record",
        "New booking",
        "RECORD",
        "Profile",
    ),
    *(
        "Here are the details",
        "Registration form",
        "Contact information",
        "Patient data",
    ),
    *(
        "Your Order Summary",
        "Lead",
        "Claim form",
        "Application",
        "Personal Information",
    ),
)
OPENINGS = (
    "Hi,",
    "Hello!",
    "Good morning.",
    "FYI:",
    "Update:",
    "ok so",
    "Note:",
    "PS:",
)
CLOSINGS = (
    *(
        "Thanks!",
        "Thank you in advance.",
        "Best regards",
        "pls advise",
        "Cheers",
        "Sorry.",
    ),
    *(
        "Let me know.",
        "Any help is appreciated.",
        "No rush.",
        ":)",
        "👍",
        "Please hurry!",
    ),
)


def generate(n: int, seed: int, *, kept: bool = False) -> list[Example]:
    """Return `n` texts with their spans; the same seed gives the same texts.

    `kept` is for texts that validate: they share no template with those that teach,
    and no name, place or organisation of our lists.
    """
    source = open_source(seed, kept=kept)
    examples: list[Example] = []
    while len(examples) < n:
        example = _example(noisy(_text(source), source.chance))
        if example is not None:
            examples.append(example)
    return examples


@cache
def templates() -> dict[str, list[str]]:
    """Return the templates by their file, which is their register."""
    return {
        path.stem: [
            line.replace(r"\n", "\n")
            for line in path.read_text("utf-8").splitlines()
            if line and not line.startswith("#")
        ]
        for path in sorted(HERE.glob("*.txt"))
        if path.stem != "words"
    }


@cache
def _share(kept: bool) -> dict[str, list[str]]:  # noqa: FBT001
    """Return the templates that are kept from training, or the others."""
    return {
        register: [
            line for line in lines if (zlib.crc32(line.encode()) % KEPT == 0) == kept
        ]
        for register, lines in templates().items()
    }


@cache
def _by_label(kept: bool) -> list[list[tuple[str, str]]]:  # noqa: FBT001
    """Return register and template for each label that needs help to be seen."""
    return [
        [
            (register, line)
            for register, lines in _share(kept).items()
            if register != LOGS
            for line in lines
            if not slots.isdisjoint(_SLOT.findall(line))
        ]
        for slots in BALANCED_SLOTS
    ]


@cache
def _all(kept: bool) -> list[tuple[str, str]]:  # noqa: FBT001
    """Return register and template of all that may have personal data in them."""
    return [
        (register, line)
        for register, lines in _share(kept).items()
        if register not in {NEGATIVE, LOGS}
        for line in lines
    ]


def _text(source: Source) -> list[Piece]:
    """Return the pieces of a text without noise."""
    chance, lines_of = source.chance, _share(source.kept)
    if source.often(HARMLESS):
        lines = [
            chance.choice(lines_of[NEGATIVE]) for _ in range(chance.choice(JOINED))
        ]
        return _joined([fill(line, source) for line in lines], chance)
    if source.often(LOGGED):
        lines = [chance.choice(lines_of[LOGS]) for _ in range(chance.choice(JOINED))]
        return _joined([fill(line, source) for line in lines], chance, ("\n",))
    if source.often(FIELDS):
        return _fields(source)
    register, line = _template(source)
    lines = [line]
    # The sentences around it are of the same register, or say nothing.
    for _ in range(chance.choice(JOINED) - 1):
        other = NEGATIVE if source.often(0.35) else register
        lines.insert(chance.randint(0, len(lines)), chance.choice(lines_of[other]))
    parts = [fill(line, source) for line in lines]
    if source.often(0.05):
        parts.insert(0, [(chance.choice(OPENINGS), None)])
    if source.often(0.05):
        parts.append([(chance.choice(CLOSINGS), None)])
    return _joined(parts, chance)


def _template(source: Source) -> tuple[str, str]:
    """Return a register and one of its templates."""
    if source.often(BALANCED):
        return source.chance.choice(source.chance.choice(_by_label(source.kept)))
    return source.chance.choice(_all(source.kept))


def fill(template: str, source: Source) -> list[Piece]:
    """Return the pieces of a template: its choices made, its slots filled."""
    while match := _CHOICE.search(template):  # the innermost first
        chosen = source.chance.choice(match[1].split("|"))
        template = template[: match.start()] + chosen + template[match.end() :]
    pieces: list[Piece] = []
    for place, part in enumerate(_SLOT.split(template)):
        if place % 2 == 0:
            pieces.append((part, None))
            continue
        filled = SLOTS[part](source)
        before = pieces[-1][0]
        if before.endswith((" a ", "A ")) and _VOWEL.match(filled[0][0]):
            pieces[-1] = (f"{before[:-1]}n ", None)
        pieces += filled
    return pieces


def _joined(
    parts: Sequence[list[Piece]],
    chance: random.Random,
    gaps: Sequence[str] = (" ", " ", " ", "\n", "\n\n"),
) -> list[Piece]:
    gap = chance.choice(gaps)
    joined = list(parts[0])
    for part in parts[1:]:
        joined += [(gap, None), *part]
    return joined


def _fields(source: Source) -> list[Piece]:
    """Return a form, a row of values, or a record as a program writes it."""
    chance = source.chance
    slots = chance.sample(sorted(FORM), chance.choice((1, 2, 3, 3, 4, 5, 6, 7)))
    style = chance.random()
    if style >= 0.85 and not {"street", "address"}.isdisjoint(slots):
        # Without names a town beside a street is a part of the address.
        slots = [slot for slot in slots if slot not in PARTS]
    colon, gap = chance.choice(COLONS), chance.choice(BREAKS)
    pieces: list[Piece] = []
    if style < 0.75 and source.often(0.15):
        pieces.append(
            (f"{chance.choice(HEADINGS)}{chance.choice((':', '', ' -'))}\n", None)
        )
    for slot in slots:
        name = chance.choice(FORM[slot])
        if style < 0.75:
            before, after = f"{name}{colon}", gap
        elif style < 0.85:
            before, after = f'"{name.lower().replace(" ", "_")}": "', '", '
        else:
            before, after = "", chance.choice((", ", gap))
        pieces += [(before, None), *SLOTS[slot](source), (after, None)]
    pieces[-1] = ('"' if pieces[-1][0].startswith('"') else "", None)
    if 0.75 <= style < 0.85:
        return [("{", None), *pieces, ("}", None)]
    return pieces


def splits(char: str) -> bool:
    """Tell whether a character ends a word: BERT's pre-tokenisation."""
    ascii_mark = char in string.punctuation
    return char.isspace() or ascii_mark or unicodedata.category(char).startswith("P")


def _one_name(before: Span, label: str, between: str) -> bool:
    """Tell whether a first and a last name stand side by side."""
    return before.label == label == "PERSON" and between.strip(" ") == ""


def _example(pieces: Sequence[Piece]) -> Example | None:
    """Return the text with its spans; None where a span would split a word."""
    text = ""
    spans: list[Span] = []
    for piece, label in pieces:
        start, text = len(text), text + piece
        if label is None:
            continue
        if spans and _one_name(spans[-1], label, text[spans[-1].end : start]):
            start = spans.pop().start
        spans.append(Span(start=start, end=len(text), label=label))
    if not text.strip():
        return None
    edges = [edge for span in spans for edge in (span.start, span.end)]
    inside = any(
        0 < edge < len(text) and not (splits(text[edge - 1]) or splits(text[edge]))
        for edge in edges
    )
    return None if inside else Example(text=text, spans=_whole(text, spans))


def _whole(text: str, spans: Sequence[Span]) -> tuple[Span, ...]:
    """Return the spans with each address as one block, as it is found."""
    marked = [
        Entity(span.label, text[span.start : span.end], span.start, span.end, None)
        for span in spans
    ]
    return tuple(
        Span(start=entity.start, end=entity.end, label=entity.label)
        for entity in blocks(text, marked)
    )
