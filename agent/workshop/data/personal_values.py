"""Made-up personal data of many countries: what fills the slots of a template.

A value is a list of pieces, each a text and its label (None: harmless), so that
`Berlin, Germany` can be two entities and `Dr. Miller` a title and a person.
Faker knows the names and streets of many languages; what it does not know, or knows
too regularly, stands in `personal/words.txt` and in the patterns below.
"""

# ruff: noqa: PLR2004 - shares of the whole, each said once and beside what it shares

import random
import string
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from faker import Faker

from agent.inference.patterns import IBAN_LENGTHS, luhn

HERE = Path(__file__).with_name("personal")

Piece = tuple[str, str | None]
Words = Mapping[str, Sequence[str]]

# What stands between the parts of an address.
SEPARATORS = (", ", ", ", ", ", "\n", "\n", " ", " ", ",")
SHORTEST_PHONE = 7  # digits; Faker also knows emergency calls

PHONE_EXTENSIONS = ("x{}", " x{}", " ext. {}", " ext {}", ", ext. {}", " extension {}")
CARDS = (  # prefixes, and the length
    *(("4", 16), ("4", 16), ("4", 13), ("4", 19), ("51", 16), ("53", 16), ("55", 16)),
    *(("2221", 16), ("2500", 16), ("34", 15), ("37", 15), ("6011", 16), ("65", 16)),
    *(("3528", 16), ("3566", 16), ("36", 14), ("38", 14), ("304", 14), ("62", 16)),
    *(("5018", 16), ("6304", 18), ("1800", 15), ("2131", 15), ("6759", 13)),
)
KEPT = 10  # one value of so many never teaches: the texts that validate have these
DRAWS = 60
WHOLE = (  # lists too short for that, or of forms and not of names
    *("abbreviated", "titles", "origins", "org_ends", "us_suffixes", "tlds", "zips"),
    *("licenses", "phones", "dates", "times", "stamps", "months", "days", "codes"),
    *("expiries", "web_words", "paths", "email_domains", "relative", "suffixes"),
    *("log_stamps", "log_modules"),
)
# What an invented name is made of
ONSETS = (*"bdfghjklmnprstvwz", "br", "dr", "fr", "kr", "th", "sh", "ch", "st", "kh")
VOWELS = (*"aeiouaeio", "ai", "ei", "oo", "ou", "y")
CODAS = ("", "", "", "n", "r", "l", "m", "s", "k", "t", "nd", "ng", "rd", "ck", "sh")
COUNTS = ("two", "three", "four", "five", "six", "ten", "2", "3", "4", "5", "10", "12")
UNITS = ("days", "weeks", "months", "years", "hours")
ONES = (*("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty")


@dataclass(frozen=True, slots=True)
class Source:
    """Where values come from: one stream of chance, and what Faker and we know.

    `kept`: names are only those that are kept from training, or only the others.
    """

    chance: random.Random
    fakers: Mapping[str, Faker]
    words: Words
    kept: bool = False

    def word(self, section: str) -> str:
        """Return an entry of a word list."""
        return self.chance.choice(self.words[section])

    def own(self, draw: Callable[[], str]) -> str:
        """Draw until the value is of our share; some locales have too few names."""
        values = (draw() for _ in range(DRAWS))
        return next((one for one in values if is_kept(one) == self.kept), draw())

    def faker(self, *sections: str) -> Faker:
        """Return the Faker of a locale of these lists."""
        locales = [locale for section in sections for locale in self.words[section]]
        return self.fakers[self.chance.choice(locales)]

    def shape(self, *shapes: str) -> str:
        """Return one of the shapes, filled with digits and capitals."""
        filled = {"#": string.digits, "?": string.ascii_uppercase}
        return "".join(
            self.chance.choice(filled.get(char, char))
            for char in self.chance.choice(shapes)
        )

    def often(self, share: float) -> bool:
        """Return true in this share of the calls."""
        return self.chance.random() < share


def is_kept(value: str) -> bool:
    """Tell whether a value is kept from training."""
    return zlib.crc32(value.casefold().encode()) % KEPT == 0


def _share(words: Words, kept: bool) -> Words:  # noqa: FBT001
    """Return the lists without the values of the other share; none becomes empty."""
    return {
        name: entries
        if name in WHOLE or name.endswith("_locales")
        else [entry for entry in entries if is_kept(entry) == kept] or entries
        for name, entries in words.items()
    }


def read_words() -> dict[str, list[str]]:
    """Return the word lists of `words.txt` by their name."""
    words: dict[str, list[str]] = {}
    for line in (HERE / "words.txt").read_text("utf-8").splitlines():
        if line.startswith("== "):
            entries = words.setdefault(line.removeprefix("== ").strip(), [])
        elif line and not line.startswith("# "):
            entries += [entry.strip() for entry in line.split(";")]
    return words


def open_source(seed: int, *, kept: bool = False) -> Source:
    """Return a source that always gives the same values for the same seed.

    `kept` is for texts that validate: names, places and organisations that no text
    for training has.
    """
    chance = random.Random(seed)  # noqa: S311 - data, no secrets
    words = read_words()
    lists = [entries for name, entries in words.items() if name.endswith("_locales")]
    locales = {locale for entries in lists for locale in entries} | {"ja_JP"}
    fakers = {}
    for locale in sorted(locales):
        # Without weights rare names are as likely as common ones.
        faker = fakers[locale] = Faker(locale, use_weighting=False)
        faker.seed_instance(chance.getrandbits(32))
    return Source(chance, fakers, _share(words, kept), kept)


def _names(source: Source) -> tuple[str, str]:
    """Return a first and a last name of the same origin."""
    draw = source.chance.random()
    if draw < 0.2:
        origin = source.word("origins")
        return source.word(f"{origin}_first"), source.word(f"{origin}_last")
    if draw < 0.22:
        first, last = source.fakers["ja_JP"].romanized_name().split(" ", 1)
        return first, last
    if draw < 0.28:
        return source.word("nicknames"), source.own(source.fakers["en_US"].last_name)
    if draw < 0.34:
        return _invented(source), _invented(source)
    if draw < 0.37:
        return source.word("wordy_given"), source.word("wordy_family")
    faker = (
        source.fakers["en_US"]
        if draw < 0.55
        else source.faker("english_locales", "name_locales")
    )
    wordy = source.often(0.05)
    last = source.word("wordy_family") if wordy else source.own(faker.last_name)
    return source.own(faker.first_name), last


def _invented(source: Source) -> str:
    """Return a name that nobody has: most names are in no list."""
    chance = source.chance
    syllables = [
        chance.choice(ONSETS) + chance.choice(VOWELS) + chance.choice(CODAS)
        for _ in range(chance.choice((1, 2, 2, 2, 3)))
    ]
    name = "".join(syllables).title()
    return (
        f"{name}{chance.choice(('', '', '', 'a', 'e', 'i', 'o', 'son', 'sen', 'ski'))}"
    )


def _last(source: Source) -> str:
    last = _names(source)[1]
    if source.often(0.06):
        last += f"-{_names(source)[1]}"
    return last


def _initial(source: Source) -> str:
    letter = source.chance.choice(string.ascii_uppercase)
    return letter + source.chance.choice((".", ".", ".", ""))


def _full(source: Source) -> str:
    chance = source.chance
    first, last = _names(source)
    if source.often(0.06):
        last += f"-{_names(source)[1]}"
    other, gap = _names(source)[0], chance.choice(("", " "))
    shapes = {
        f"{first} {last}": 75,
        f"{first} {_initial(source)} {last}": 8,
        f"{first} {other} {last}": 5,
        f"{first[0]}. {last}": 3,
        f"{first[0]}.{gap}{other[0]}. {last}": 2,
        f"{last}, {first}": 3,
        f"{last} {first}": 1,
        f"{first} {last} {source.word('suffixes')}": 3,
        f"{first} {last}".upper(): 1.5,
        f"{first} {last}".lower(): 3,
    }
    return chance.choices(list(shapes), list(shapes.values()))[0]


def _first(source: Source) -> str:
    first = source.word("nicknames") if source.often(0.2) else _names(source)[0]
    return first.lower() if source.often(0.1) else first


def _any(source: Source) -> list[Piece]:
    """Return a person as people call one another: mostly by one name."""
    draw = source.chance.random()
    if draw < 0.3:
        return [(source.word("wordy_given"), "PERSON")]
    if draw < 0.6:
        return [(_first(source), "PERSON")]
    if draw < 0.7:
        return [(_invented(source), "PERSON")]
    if draw < 0.78:
        return [(_last(source), "PERSON")]
    return _person(source)


def _person(source: Source) -> list[Piece]:
    draw = source.chance.random()
    if draw < 0.07:
        return _titled(source)
    if draw < 0.2:
        return [(_first(source), "PERSON")]
    return [(_full(source), "PERSON")]


def _titled(source: Source) -> list[Piece]:
    name = _last(source) if source.often(0.65) else _full(source)
    titled = [(source.word("titles"), "TITLE"), (" ", None), (name, "PERSON")]
    if source.often(0.06):  # with a comma it is no part of the name
        titled.append((f", {source.word('degrees')}", None))
    return titled


def _city(source: Source) -> str:
    if source.often(0.6):
        return source.word("cities")
    return str(source.faker("city_locales").city())


def _country(source: Source) -> str:
    section = "abbreviated" if source.often(0.12) else "countries"
    return source.word(section)


def _state(source: Source) -> str:
    if source.often(0.25):
        return str(source.fakers["en_US"].state_abbr())
    return source.word("states")


def _gpe(source: Source) -> str:
    draw = source.chance.random()
    if draw < 0.45:
        return _city(source)
    if draw < 0.75:
        return _country(source)
    return source.word("states" if draw < 0.88 else "regions")


def _place(source: Source) -> list[Piece]:
    """Return a city and what it lies in: two places."""
    outer = _country(source)
    if source.often(0.4):
        outer = source.word("states")
    elif source.often(0.25):
        outer = source.fakers["en_US"].state_abbr()
    return [(_city(source), "GPE"), (", ", None), (outer, "GPE")]


def _us_street(source: Source) -> str:
    chance = source.chance
    number = str(chance.choice((chance.randint(1, 99), chance.randint(100, 19999))))
    draw = chance.random()
    if draw < 0.35:
        faker = source.fakers["en_US"]
        return f"{number} {faker.street_name()}"
    if draw < 0.45:
        side = chance.choice(("N", "S", "E", "W", "North", "South", "NW", "SE", "W."))
        nth = _ordinal(chance.randint(1, 120))
        return f"{number} {side} {nth} {source.word('us_suffixes')}"
    if draw < 0.52:
        nth = chance.choice(
            (_ordinal(chance.randint(1, 60)), "Fifth", "Third", "First")
        )
        return f"{number} {nth} {chance.choice(('Ave', 'Avenue', 'Street', 'St'))}"
    if draw < 0.56:
        road = chance.choice(("County Road", "Highway", "Route", "State Road", "FM"))
        return f"{number} {road} {chance.randint(1, 999)}"
    side = chance.choice(("", "", "", "", "N. ", "S ", "East ", "West ", "Old ", "NE "))
    return f"{number} {side}{source.word('us_streets')} {source.word('us_suffixes')}"


def _ordinal(number: int) -> str:
    teen = number % 100 in {11, 12, 13}
    ending = {1: "st", 2: "nd", 3: "rd"}.get(0 if teen else number % 10, "th")
    return f"{number}{ending}"


def _unit(source: Source) -> str:
    number = source.shape("#", "##", "###", "#?", "?", "####", "##?", "?##")
    kind = source.chance.choice(
        (
            "Apt.",
            "Apt",
            "Suite",
            "Ste.",
            "Unit",
            "#",
            "Apartment",
            "Floor",
            "Room",
            "Flat",
        )
    )
    return f"#{number}" if kind == "#" else f"{kind} {number}"


def _world_street(source: Source) -> str:
    """Return a street line in the manner of another country."""
    chance = source.chance
    number = source.shape("#", "##", "###", "##", "##a", "#b", "##-##")
    country = chance.choice(("uk", "uk", "de", "fr", "es", "it", "nl", "asian"))
    street = source.word(f"{country}_streets")
    if country in {"uk", "asian"}:
        flat = f"Flat {source.shape('#', '##', '#?')}, " if source.often(0.15) else ""
        return f"{flat}{number} {street}"
    if country == "fr":
        return chance.choice((f"{number} {street}", f"{number}, {street}"))
    if country in {"es", "it"}:
        return chance.choice((f"{street} {number}", f"{street}, {number}"))
    return f"{street} {number}"


def _street(source: Source) -> str:
    draw = source.chance.random()
    if draw < 0.5:
        street = _us_street(source)
        if source.often(0.25):
            gap = source.chance.choice((" ", ", ", ", "))
            street = f"{street}{gap}{_unit(source)}"
        return street
    if draw < 0.7:
        return _world_street(source)
    if draw < 0.74:
        box = source.chance.choice(("P.O. Box", "PO Box", "P. O. Box", "POB", "Box"))
        return f"{box} {source.chance.randint(1, 9999)}"
    street = str(source.faker("street_locales").street_address())
    return street.replace("\n", ", ")


def _address(source: Source) -> str:
    """Return a whole address: American, military, or of one of many countries."""
    chance = source.chance
    gap = chance.choice(SEPARATORS)
    draw = chance.random()
    if draw < 0.015:
        return str(source.fakers["en_US"].military_apo()).replace("\n", gap)
    if draw < 0.03:
        post = source.shape("APO AE #####", "FPO AP #####", "DPO AA #####")
        box = source.shape("PSC ####, Box ###", "Unit #### Box ####", "PSC ## Box ##")
        return f"{box}{gap}{post}"
    if draw < 0.08:
        return _street(source)
    if draw < 0.5:
        return _us_address(source, gap)
    if draw < 0.65:
        parts = [
            _world_street(source),
            f"{_city(source)} {source.shape(source.word('zips'))}",
        ]
        if source.often(0.5):
            parts[1] = f"{source.shape(source.word('zips'))} {_city(source)}"
    else:
        parts = str(source.faker("street_locales").address()).split("\n")
    if source.often(0.3):
        parts.append(_country(source))
    return gap.join(part.strip() for part in parts)


def _us_address(source: Source, gap: str) -> str:
    faker = source.fakers["en_US"]
    parts = [_us_street(source)]
    if source.often(0.35):
        parts.append(_unit(source))
        if source.often(0.4):
            parts[:2] = [f"{parts[0]} {parts[1]}"]
    state = faker.state_abbr() if source.often(0.7) else source.word("states")
    code = source.shape("#####", "#####", "#####", "#####-####")
    city = _city(source) if source.often(0.5) else faker.city()
    ending = source.chance.choice(
        (
            *(
                f"{city}, {state} {code}",
                f"{city}, {state} {code}",
                f"{city} {state} {code}",
            ),
            *(f"{city}, {state}, {code}", f"{city}, {state}", city, f"{city} {code}"),
            *(f"{city}{gap}{state} {code}", f"{city}{gap}{state}{gap}{code}"),
        )
    )
    parts.append(ending)
    if source.often(0.2):
        countries = ("USA", "United States", "US", "U.S.A.", _country(source))
        parts.append(source.chance.choice(countries))
    return gap.join(parts)


def _company(source: Source) -> str:
    draw = source.chance.random()
    if draw < 0.2:
        return str(source.faker("company_locales").company())
    if draw < 0.45:
        return _firm(source)
    if draw < 0.65:
        return _shop(source)
    noun, field = source.word("org_nouns"), source.word("org_fields")
    last, end = _names(source)[1], source.word("org_ends")
    made = (
        *(
            f"{noun} {field}",
            f"{noun} {field} {end}",
            f"{last} {field}",
            f"{last} {end}",
        ),
        *(f"{last} & {_names(source)[1]}", f"{last}, {_names(source)[1]} and Partners"),
        *(f"{noun} {end}", f"{noun}{noun.lower()[:4]} {field}", f"The {noun} Company"),
        *(
            f"{_names(source)[0]}'s {field}",
            f"{_city(source)} {field}",
            f"{last} {end}",
        ),
        *(
            f"{source.shape('???')} {field}",
            source.shape("???"),
            f"{noun} & {noun} {end}",
        ),
        *(f"{source.word('web_words').title()}{source.word('web_words').title()}",) * 2,
    )
    return source.chance.choice(made)


def _firm(source: Source) -> str:
    """Return a firm named after its owners, and after nothing else."""
    one, two, three = (_names(source)[1] for _ in range(3))
    end = source.word("org_ends")
    return source.chance.choice(
        (
            *(f"{one}-{two}", f"{one}-{two}", f"{one}, {two} and {three}"),
            *(f"{one}, {two} and {three}", f"{one} {end}", f"{one}-{two} {end}"),
            *(f"{one} & {two} {end}", f"{one} {two} {end}", f"{one}, {two} & {three}"),
            *(f"{one} and Sons", f"{one} Group", f"{one} LLC", f"{one} PLC"),
            *(f"{one} Ltd", f"{one} Inc"),
        )
    )


def _shop(source: Source) -> str:
    """Return a shop or small firm with a name of ordinary words."""
    word, noun = source.word("shop_words"), source.word("shop_nouns")
    other, last = source.word("shop_words"), _names(source)[1]
    return source.chance.choice(
        (
            *(f"{word} {noun}", f"{word} {noun}", f"{word} {noun}", f"{word} {other}"),
            *(f"{word} {other} {noun}", f"{word}{other.lower()}", f"{last}'s {noun}"),
            *(f"{last}'s", f"{last} {noun}", f"The {word} {noun}", f"{word}'n {other}"),
            *(f"{word} & {other}", f"{word}{other}"),
        )
    )


def _school(source: Source) -> str:
    city, last = _city(source), _names(source)[1]
    return source.chance.choice(
        (
            *(
                f"University of {_gpe(source).removeprefix('the ')}",
                f"{city} University",
            ),
            *(f"{last} University", f"{last} College", f"{city} High School"),
            *(f"{last} Elementary School", f"St. {source.word('saints')}'s College"),
            *(f"{source.word('states')} State University", f"{city} Business School"),
            *(
                f"{city} Institute of Technology",
                f"{last} Academy",
                f"{city} Polytechnic",
            ),
            *(f"{source.word('org_nouns')} Middle School", f"Université de {city}"),
        )
    )


def _hospital(source: Source) -> str:
    city, saint = _city(source), source.word("saints")
    return source.chance.choice(
        (
            *(
                f"St. {saint}'s Hospital",
                f"St. {saint} Hospital",
                f"Saint {saint} Clinic",
            ),
            *(f"{city} General Hospital", f"{city} Medical Center", f"{city} Clinic"),
            *(f"{_names(source)[1]} Memorial Hospital", f"{city} Children's Hospital"),
            f"{source.word('org_nouns')} Health Centre",
        )
    )


def _band(source: Source) -> str:
    word, noun = source.word("band_words"), source.word("band_nouns")
    return source.chance.choice(
        (
            *(f"The {word} {noun}", f"{word} {noun}", f"The {noun}", f"the {noun}"),
            *(
                f"{_names(source)[0]} and the {noun}",
                f"{word} {source.word('web_words').title()}",
            ),
            f"{source.word('org_nouns')} {noun}",
        )
    )


def _agency(source: Source) -> str:
    subject, gpe = source.word("org_subjects"), _gpe(source)
    return source.chance.choice(
        (
            *(f"Department of {subject}", f"Ministry of {subject}", f"Bank of {gpe}"),
            *(
                f"the Department of {subject}",
                f"{gpe} City Council",
                f"{gpe} Police Department",
            ),
            *(
                f"National Institute of {subject}",
                f"Office of {subject}",
                f"{gpe} Bank",
            ),
            *(f"{_names(source)[1]} Foundation", f"First National Bank of {gpe}"),
            *(
                f"Museum of {subject}",
                f"{gpe} Red Cross",
                f"{gpe} United",
                f"FC {_city(source)}",
            ),
            *(
                f"the {_gpe(source).removeprefix('the ')} Times",
                f"Radio {gpe}",
                f"Air {gpe}",
            ),
        )
    )


def _organization(source: Source) -> str:
    draw = source.chance.random()
    if draw < 0.38:
        return _known(source)
    if draw < 0.74:
        return _company(source)
    makers = (_school, _hospital, _agency, _agency, _band)
    return source.chance.choice(makers)(source)


def _known(source: Source) -> str:
    """Return an organisation that there is, now and then as hurried people write it."""
    name = source.word("organizations")
    return name.lower() if source.often(0.06) else name


def _card(source: Source) -> str:
    prefix, size = source.chance.choice(CARDS)
    body = prefix + source.shape("#" * (size - len(prefix) - 1))
    digits = next(body + check for check in string.digits if luhn(body + check))
    if source.often(0.05):  # a slip of the pen
        digits = body + source.shape("#")
    gap = source.chance.choice(("", "", "", " ", " ", "-"))
    sizes = (4, 6, 5) if size == 15 else (4, 4, 4, 4, 4)
    groups, start = [], 0
    for length in sizes:
        groups.append(digits[start : start + length])
        start += length
    return gap.join(group for group in groups if group)


def _iban(source: Source) -> str:
    country = source.chance.choice(sorted(IBAN_LENGTHS))
    size = IBAN_LENGTHS[country] - 4
    bank = 4 if country in {"GB", "NL", "IE", "BG", "RO", "LV", "MT", "QA"} else 0
    body = source.shape("?" * bank + "#" * (size - bank))
    number = "".join(str(int(char, 36)) for char in f"{body}{country}00")
    code = f"{country}{98 - int(number) % 97:02}{body}"
    if source.often(0.45):
        gap = source.chance.choice((" ", " ", " ", "-"))
        code = gap.join(code[at : at + 4] for at in range(0, len(code), 4))
    return code


def _phone(source: Source) -> str:
    if source.often(0.4):
        number = str(source.faker("phone_locales").phone_number()).strip()
        if sum(char.isdigit() for char in number) >= SHORTEST_PHONE:
            return number
    number = source.shape(source.word("phones"))
    if source.often(0.08):
        extension = source.chance.randint(1, 9999)
        number += source.chance.choice(PHONE_EXTENSIONS).format(extension)
    return number


def _ssn(source: Source) -> str:
    chance = source.chance
    area = chance.choice([*range(1, 666), *range(667, 900)])
    gap = chance.choice(("-", "-", "-", "-", "-", "-", "-", " ", ""))
    return f"{area:03}{gap}{chance.randint(1, 99):02}{gap}{chance.randint(1, 9999):04}"


def _ip(source: Source) -> str:
    bits = source.chance.getrandbits
    if source.often(0.55):
        private = (10 << 24, (192 << 24) + (168 << 16), (172 << 24) + (16 << 16))
        if source.often(0.3):
            return str(IPv4Address(source.chance.choice(private) + bits(16)))
        return str(IPv4Address(bits(32)))
    number = bits(128)
    if source.often(0.4):
        number = (0x2001_0DB8 << 96) + bits(32)
    address = IPv6Address(number)
    return address.exploded if source.often(0.2) else address.compressed


def _plain(text: str) -> str:
    """Return only the small ASCII letters of a name: what may stand in an address."""
    return "".join(char for char in text.lower() if char in string.ascii_lowercase)


def _host(source: Source) -> str:
    name = "".join(
        source.word("web_words") for _ in range(source.chance.choice((1, 2, 2, 2, 3)))
    )
    draw = source.chance.random()
    if draw < 0.25:
        name = _plain(_names(source)[1]) or name
    elif draw < 0.4:
        name = f"{source.word('web_words')}-{source.word('web_words')}"
    elif draw < 0.5:
        name += source.shape("#", "##", "24")
    if source.often(0.1):
        name = f"{source.chance.choice(('blog', 'shop', 'mail', 'app', 'm'))}.{name}"
    return f"{name}.{source.word('tlds')}"


def _email(source: Source) -> str:
    if source.often(0.1):
        return str(source.faker("english_locales").email())
    first, last = (_plain(name) for name in _names(source))
    first, last = first or "info", last or "office"
    local = source.chance.choice(
        (
            *(
                f"{first}.{last}",
                f"{first}.{last}",
                f"{first}{last}",
                f"{first}_{last}",
            ),
            *(
                f"{first[0]}{last}",
                f"{first[0]}.{last}",
                f"{first}{source.shape('##')}",
            ),
            *(f"{last}.{first}", first, f"{last}{source.shape('#', '####')}"),
            *(
                f"{first}+{source.word('web_words')}",
                f"{first}-{last}",
                f"{last}{first[0]}",
            ),
            *(source.chance.choice(("info", "support", "sales", "hr", "no-reply")),)
            * 2,
            *(
                f"{source.word('web_words')}{source.word('web_words')}{source.shape('##')}",
            ),
            *(f"{first.title()}.{last.title()}", f"{first}{last}{source.shape('##')}"),
        )
    )
    domain = source.word("email_domains") if source.often(0.5) else _host(source)
    return f"{local}@{domain}"


def _url(source: Source) -> str:
    host = _host(source)
    scheme = source.chance.choice(("https://", "http://", "https://www.", "www."))
    path = f"/{source.word('paths')}" if source.often(0.45) else ""
    return f"{scheme}{host}{path}{'/' if not path and source.often(0.2) else ''}"


def _domain(source: Source) -> str:
    return _url(source) if source.often(0.4) else _host(source)


def _moment(source: Source, formats: str, first: int, last: int) -> str:
    """Return a date or time in a format of this list (as strftime's; %o an ordinal)."""
    chance = source.chance
    day, hour, month = (
        chance.randint(1, 28),
        chance.randint(0, 23),
        chance.randint(1, 12),
    )
    year, noon = chance.randint(first, last), hour % 12 or 12
    pad = chance.choice(("", "0"))
    months = source.words["months"]
    values = {
        "d": f"{day:02}",
        "e": str(day),
        "o": _ordinal(day),
        "m": f"{month:02}",
        "B": months[month - 1],
        "b": months[month - 1][:3],
        "Y": str(year),
        "y": f"{year % 100:02}",
        "A": source.word("days"),
        "a": source.word("days")[:3],
        "H": f"{hour:02}",
        "I": f"{noon:{pad}2}".strip(),
        "M": f"{chance.randint(0, 59):02}",
        "S": f"{chance.randint(0, 59):02}",
        "p": "PM" if hour > 11 else "AM",
    }
    before, *parts = source.word(formats).split("%")
    return before + "".join(values[part[0]] + part[1:] for part in parts)


def _birthday(source: Source) -> str:
    return _moment(source, "dates", 1925, 2018)


def _month(source: Source) -> str:
    month, year = source.word("months"), source.chance.randint(1950, 2030)
    return source.chance.choice(
        (
            f"{month} {year}",
            f"{month} {year}",
            f"{month[:3]} {year}",
            month,
            f"{month}, {year}",
        )
    )


def _relative(source: Source) -> str:
    """Return a day or a time as seen from now."""
    chance = source.chance
    day, unit = source.word("days"), chance.choice(UNITS)
    month, count = source.word("months"), chance.choice(COUNTS)
    near = chance.choice(("last", "next", "this", "last", "next", "this coming"))
    hour, part = _hour(source), chance.choice(("morning", "afternoon", "evening"))
    return chance.choice(
        (
            *(f"{near} {day}", f"{near} {day}", day, f"{day} {part}"),
            *(f"{count} {unit} ago", f"in {count} {unit}", f"{near} {unit[:-1]}"),
            *(f"{near} {month}", f"{near} {day} {part}", f"{hour} in the {part}"),
            *(f"{hour} o'clock", f"half past {hour}", f"a quarter to {hour}"),
            *(f"{source.word('relative')}" for _ in range(7)),
            *(f"yesterday {part}", f"tomorrow {part}", f"early {near} {unit[:-1]}"),
        )
    )


def _hour(source: Source) -> str:
    number = source.chance.randint(1, 12)
    return (
        str(number) if source.often(0.5) else (*ONES, "ten", "eleven", "twelve")[number]
    )


def _date(source: Source) -> str:
    draw = source.chance.random()
    if draw < 0.68:
        return _moment(source, "dates", 1990, 2030)
    if draw < 0.75:
        return _month(source)
    return _relative(source) if draw < 0.93 else _moment(source, "stamps", 1995, 2030)


def _year(source: Source) -> str:
    year = source.chance.randint(1880, 2030)
    return f"the {year // 10 * 10}s" if source.often(0.04) else str(year)


def _time(source: Source) -> str:
    return _moment(source, "times", 2000, 2000)


def _age(source: Source) -> str:
    chance = source.chance
    age = chance.choice((chance.randint(1, 99), chance.randint(18, 80)))
    if source.often(0.03):
        return f"{age}.{chance.randint(1, 9)}"
    if source.often(0.06):
        tens, ones = divmod(chance.randint(20, 89), 10)
        return f"{TENS[tens - 2]}-{ONES[ones]}".rstrip("-")
    return str(age)


def _amount(source: Source) -> str:
    chance = source.chance
    number = chance.choice((chance.randint(1, 99), chance.randint(100, 9999)))
    cents = chance.choice(("", f".{chance.randint(0, 99):02}"))
    written = f"{number:,}{cents}" if source.often(0.5) else f"{number}{cents}"
    shapes = ("${}", "€{}", "£{}", "{} euros", "{} dollars", "{} USD", "{} €", "EUR {}")
    return chance.choice(shapes).format(written)


def _version(source: Source) -> str:
    parts = [
        str(source.chance.randint(0, 20))
        for _ in range(source.chance.choice((2, 3, 4)))
    ]
    return source.chance.choice(("v", "version ", "release ")) + ".".join(parts)


def _number(source: Source) -> str:
    high = source.chance.choice((9, 99, 999, 9999, 100000))
    return str(source.chance.randint(2, high))


def _percent(source: Source) -> str:
    number = source.chance.choice(
        (str(source.chance.randint(1, 100)), "2.5", "0.7", "12.4")
    )
    return number + source.chance.choice(("%", " %", " percent"))


def _hex(source: Source) -> str:
    size = source.chance.choice((4, 6, 8, 8, 12, 16, 32))
    digits = f"{source.chance.getrandbits(4 * size):0{size}x}"
    return digits if source.often(0.6) else f"0x{digits}"


def _machine(source: Source) -> str:
    """Return the name that a machine has in a log."""
    shapes = ("pi-#", "srv##", "edge-##", "node#", "host##", "gw-###", "plc#")
    return source.shape(*shapes).lower()


def _duration(source: Source) -> str:
    units = ("minutes", "hours", "days", "weeks", "seconds", "years", "months")
    return f"{source.chance.randint(2, 90)} {source.chance.choice(units)}"


def _labelled(
    label: str, maker: Callable[[Source], str]
) -> Callable[[Source], list[Piece]]:
    return lambda source: [(maker(source).strip(), label)]


def _listed(section: str, label: str | None = None) -> Callable[[Source], list[Piece]]:
    return lambda source: [(source.word(section), label)]


def _harmless(maker: Callable[[Source], str]) -> Callable[[Source], list[Piece]]:
    return lambda source: [(maker(source), None)]


# What may stand between braces in a template.
SLOTS: dict[str, Callable[[Source], list[Piece]]] = {
    "person": _person,
    "titled": _titled,
    "place": _place,
    "full": _labelled("PERSON", _full),
    "reversed": _labelled("PERSON", lambda source: ", ".join(_names(source)[::-1])),
    "first": _labelled("PERSON", _first),
    "any": _any,
    "last": _labelled("PERSON", _last),
    "title": _listed("titles", "TITLE"),
    "address": _labelled("STREET_ADDRESS", _address),
    "street": _labelled("STREET_ADDRESS", _street),
    "gpe": _labelled("GPE", _gpe),
    "city": _labelled("GPE", _city),
    "country": _labelled("GPE", _country),
    "state": _labelled("GPE", _state),
    "zip": _labelled("ZIP_CODE", lambda source: source.shape(source.word("zips"))),
    "org": _labelled("ORGANIZATION", _organization),
    "company": _labelled("ORGANIZATION", _company),
    "known": _labelled("ORGANIZATION", _known),
    "firm": _labelled("ORGANIZATION", _firm),
    "shop": _labelled("ORGANIZATION", _shop),
    "school": _labelled("ORGANIZATION", _school),
    "hospital": _labelled("ORGANIZATION", _hospital),
    "band": _labelled("ORGANIZATION", _band),
    "agency": _labelled("ORGANIZATION", _agency),
    "nrp": _listed("nrp", "NRP"),
    "nrps": _listed("nrps", "NRP"),
    "date": _labelled("DATE_TIME", _date),
    "birthday": _labelled("DATE_TIME", _birthday),
    "month": _labelled("DATE_TIME", _month),
    "when": _labelled("DATE_TIME", _relative),
    "year": _labelled("DATE_TIME", _year),
    "time": _labelled("DATE_TIME", _time),
    "stamp": _labelled(
        "DATE_TIME", lambda source: _moment(source, "stamps", 1995, 2030)
    ),
    "expiry": _labelled(
        "DATE_TIME", lambda source: source.shape(source.word("expiries"))
    ),
    "age": _labelled("AGE", _age),
    "phone": _labelled("PHONE_NUMBER", _phone),
    "email": _labelled("EMAIL_ADDRESS", _email),
    "domain": _labelled("DOMAIN_NAME", _domain),
    "url": _labelled("DOMAIN_NAME", _url),
    "ip": _labelled("IP_ADDRESS", _ip),
    "iban": _labelled("IBAN_CODE", _iban),
    "card": _labelled("CREDIT_CARD", _card),
    "ssn": _labelled("US_SSN", _ssn),
    "license": _labelled(
        "US_DRIVER_LICENSE", lambda source: source.shape(source.word("licenses"))
    ),
    "number": _harmless(_number),
    # What is in logs
    "logstamp": _harmless(lambda source: _moment(source, "log_stamps", 2005, 2030)),
    "epoch": _harmless(
        lambda source: source.shape("1#########", "1#########.###", "1############")
    ),
    "pid": _harmless(lambda source: source.shape("##", "###", "####", "#####")),
    "hex": _harmless(_hex),
    "host": _harmless(_machine),
    "module": _listed("log_modules"),
    "ob": _harmless(lambda _: "["),
    "cb": _harmless(lambda _: "]"),
    "digits": _harmless(lambda source: source.shape(*("#" * n for n in range(5, 13)))),
    "price": _harmless(_amount),
    "percent": _harmless(_percent),
    "version": _harmless(_version),
    "code": _harmless(lambda source: source.shape(source.word("codes"))),
    "degree": _listed("degrees"),
    "technical": _listed("technical"),
    "duration": _harmless(_duration),
    **{
        name: _listed(name)
        for name in (
            *("job", "disease", "item", "dish", "work", "relation", "subject", "sport"),
            *("colour", "car", "animal", "genre", "department", "app", "crime"),
        )
    },
}
