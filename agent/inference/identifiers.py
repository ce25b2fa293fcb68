"""Numbers and names that stand for a person, found by the words before them.

A booking, a passport, a plate or a user name has no shape of its own: what it is says
the word before it ("passport no. X1234567", "insta: sunny.days").
"""

import re

from agent.inference.folding import Spans, united

# -- numbers

# These words alone announce a number ...
_SURE = (
    r"passports?|pnr|record locator|locator|bookings?|booking (?:ref(?:erence)?|code)"
    r"|reservations?|confirmation|itinerary|e-?ticket|claims?|polic(?:y|ies)"
    r"|mrn|medical record|health record|patient|chart|nhs|medicare|medicaid|health card"
    r"|hospital|insurance|insured|member(?:ship)?|loyalty|frequent flyer|miles|rewards?"
    r"|tax|tin|itin|ein|vat|national insurance|nino?|sin|aadhaar|aadhar|pan|cpf|cnpj"
    r"|dni|nie|nif|nric|curp|rfc|bsn|pesel|steuer-?id|national id|identity card|id card"
    r"|voter|student|employee|staff|personnel|payroll|badge|service|customer|client"
    r"|subscriber|account|acct|a/c"
    r"|routing|aba|transit|bsb|ifsc|iban|imei|imsi|iccid|vin|chassis|ssn|ss#"
    r"|social security|social|driv(?:er'?s?|ing) licen[cs]e|licen[cs]e|dl|visa|permit"
    r"|green card|alien|case|docket|court file|warrant|inmate|prisoner|probation"
    r"|reference|ref|our ref|your ref|user|guest|meter|mortgage|loan|bond"
)
_NUMBER_WORDS = (
    r"numbers?|nos?\.?|nr\.?|num\.?|#|ids?|codes?|ref(?:erence)?\.?|record|card"
)
_CUE = re.compile(rf"(?<![\w#])(?:{_SURE})(?!\w)", re.IGNORECASE)
_LINK = re.compile(
    rf"(?:[\s\"'()]{{0,2}}(?:{_NUMBER_WORDS})(?!\w)){{0,2}}"
    r"(?:\s(?:for|of|on)\s(?:the\s|my\s|our\s|his\s|her\s)?\w{1,15})?"
    r"(?:'s)?(?:\s{0,2}(?:is|was|are|reads|says|it'?s|[:=#]|->|-(?=\s)|\"|'|\()){0,3}\s{0,2}",
    re.IGNORECASE,
)
_NUMBERED = re.compile(rf"(?:{_NUMBER_WORDS}|[:=])(?!\w)", re.IGNORECASE)
_VALUE = re.compile(
    r"[A-Za-z]{0,6}[A-Z0-9]{1,20}(?:[\-/._][A-Za-z0-9]{1,20}){0,6}"
    r"(?:[ ](?=[A-Z]{0,4}\d|[A-Z]{1,4}(?![a-z])|\d)[A-Z0-9]{1,8}"
    r"(?:[\-/.][A-Z0-9]{1,8}){0,3}(?![a-z])){0,6}(?![\w%])"
)
_LOCATOR = re.compile(r"[A-Z][A-Z0-9]{4,7}(?![\w'])")
_DATE = re.compile(
    r"\d{4}-\d\d?-\d\d?|\d{1,2}[./\-]\d{1,2}[./\-]\d{2,4}|\d{1,2}[.:]\d\d"
)
FEW, MANY = 4, 5  # letters and digits of a number; where nothing calls it a number
DIGITS = 2

_LAST = re.compile(
    r"(?<!\w)(?:end(?:ing|s|ed)(?: in| with)|last (?:four|4)(?: digits)?"
    r"(?: of [a-z ]{1,24})?(?: is| are|:)?)\s{1,2}(?P<value>\d{4})(?![\w%])",
    re.IGNORECASE,
)
_SORT = re.compile(
    r"(?<!\w)sort(?:ing)?[ \-]?codes?(?:\s(?:is|was)|\s?[:=#])?\s{0,2}"
    r"(?P<value>\d\d[ \-]?\d\d[ \-]?\d\d)(?!\d)",
    re.IGNORECASE,
)
_BIC = re.compile(
    r"(?<!\w)(?:(?i:bic|swift)(?:[ /\-](?i:bic|swift))?)(?!\w)"
    r"(?:\s(?i:code|no\.?|number)|\s(?i:is)|\s?[:=#]){0,3}\s?"
    r"(?P<value>[A-Z]{4} ?[A-Z]{2} ?[A-Z0-9]{2} ?(?:[A-Z0-9]{3})?)(?!\w)"
    r"|(?<!\w)(?i:bic|swift)(?: code)?(?:\sis|\s?[:=])\s?"
    r"(?P<small>[a-z]{6}[a-z0-9]{2}(?:[a-z0-9]{3})?)(?!\w)"
)
_PLATE = re.compile(
    r"(?<!\w)(?:(?:(?:licen[cs]e|number|registration|vehicle|car|reg|index) ?)?"
    r"(?:plates?|tags?)|registration|rego?|reg\.|kennzeichen|vrn)"
    r"(?:\s?(?:numbers?|nos?\.?|nr\.?|mark))?(?:\s(?:is|was|reads|of)|\s?[:=#])?"
    r"\s{0,2}[\"'(]?(?P<value>[A-Z0-9\u00c4\u00d6\u00dc]{1,8}"
    r"(?:[ \-\u00b7][A-Z0-9]{1,7}){0,3})(?![\w%])",
)
_SPOKEN_PLATE = re.compile(
    r"(?<!\w)(?:licen[cs]e|number|registration) plate(?:\s(?:number|is|was|reads)){0,2}"
    r"\s(?P<value>[a-z0-9]{1,8}(?:[ \-](?:[a-z]{0,3}\d[a-z0-9]{0,4}"
    r"|(?!the|and|was|has|for|but|not|you|are|can|had)[a-z]{3}(?!\w))){0,3})(?!\w)",
    re.IGNORECASE,
)
_NINO = re.compile(
    r"(?<!\w)[A-CEGHJ-TW-Z][A-CEGHJ-NP-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D](?!\w)"
)
_VIN = re.compile(r"(?<!\w)(?=[A-HJ-NPR-Z]{0,16}\d)[A-HJ-NPR-Z0-9]{17}(?!\w)")

# -- names of users

_AT = re.compile(
    r"(?<![\w@./\\+=&?])@(?P<name>[A-Za-z_][\w.\-]{1,38}\w|\w{2})(?![\w@(]|\.\w)"
)
_FEDERATED = re.compile(
    r"(?<![\w@.])@[\w.\-]{1,40}@[\w\-]{1,40}(?:\.[\w\-]{1,40}){1,4}(?!\w)"
)
_SPACED = re.compile(
    r"(?<![\w@])@ (?P<name>(?=[A-Za-z]{0,20}[_\d]|[A-Za-z]{0,3}[a-z]{1,20}[A-Z])"
    r"\w{3,30})"
)
_REDDIT = re.compile(r"(?<![\w.])/?u/[\w\-]{3,24}(?![\w/])")
_TAGGED = re.compile(r"(?<![\w#])(?=[\d_.]{0,31}[^\W\d_])[\w.]{2,32}#\d{4}(?!\w)")
_LOGIN = re.compile(r"(?<![\w.@])[a-z_][\w.\-]{1,30}@[a-z][\w\-]{1,40}(?![\w@.])")
_HOME = re.compile(
    r"(?:/home/|/Users/|\\Users\\|\\Documents and Settings\\|(?<![\w~])~)"
    r"(?P<name>[A-Za-z][\w.\-]{1,40}(?<![.\-]))"
)
_SERVICES = (
    r"user ?names?|user[_ \-]?(?:id|login)|login(?: name)?|log-?in|handle|nick(?:name)?"
    r"|screen ?name|gamer ?tag|insta(?:gram)?|ig|twitter|snap(?:chat)?|telegram|tiktok"
    r"|discord|steam|xbox|psn|skype|github|gitlab|venmo|cash ?app|paypal|twitch|reddit"
    r"|linkedin|facebook|fb|mastodon|bluesky|threads|signal|wechat|line id|kik|slack"
    r"|user|logged (?:in|on)|signed in"
)
_CALLED = re.compile(
    rf"(?<![\w@])(?:{_SERVICES})"
    r"(?:,?\s(?:is|id|my|name|handle|account|user|username|tag|profile|as|:|=|@)){0,3}"
    r"(?:\s?[:=]\s?|\s)[\"'@$]{0,2}"
    r"(?P<name>[A-Za-z0-9_][\w.\-]{1,38}\w)(?![\w@])",
    re.IGNORECASE,
)
_SAYS = re.compile(r"(?:(?<!\w)(?:is|as)\s|[:=@]\s?)[\"'@$]{0,2}$")
_MARKED = re.compile(r"[\d_.]|[a-z][A-Z]")
_FIELD = re.compile(
    r"(?<![\w@])(?:user|usr|uname|username|login|account|owner|author|actor|principal"
    r"|operator|ruser|logname)[\"']?\s?[=:]\s?[\"']?(?P<name>[A-Za-z_][\w.\-\\]{1,40}\w)",
    re.IGNORECASE,
)
# They belong to the machine, to a language, or to the sentence.
_NO_NAMES = """
root admin administrator nobody daemon system guest anonymous user users username www-
data none null true false unknown test default public shared service media import
override property param return returns author deprecated see todo staticmethod
classmethod dataclass pytest app is was are not no the a an and or of for to in on at
my your his her our their it this that with name account handle post posts page feed
story stories ads login profile ban banned down broken hacked blocked here there now
out off up error failed required invalid missing wrong expired everyone channel
support everybody all home work noon midnight night least most first last once
"""
_NOBODY = frozenset(_NO_NAMES.split())


def numbers(text: str) -> Spans:
    """Yield numbers that a word before them, or their shape, ties to a person."""
    yield from united([*_announced(text), *_shaped(text)])


def handles(text: str) -> Spans:
    """Yield names of users: behind an @, a service's name, or in a path."""
    yield from united([*_marked(text), *_named(text)])


def _announced(text: str) -> Spans:
    for cue in _CUE.finditer(text):
        link = _LINK.match(text, cue.end())
        if link is None:
            continue
        value = _VALUE.match(text, link.end())
        if value and _is_number(value[0], numbered=bool(_NUMBERED.search(link[0]))):
            yield value.span()
            continue
        locator = _LOCATOR.match(text, link.end())
        if locator and cue[0].lower().startswith(
            ("pnr", "record", "loc", "book", "conf")
        ):
            yield locator.span()


def _is_number(value: str, *, numbered: bool) -> bool:
    digits = sum(char.isdigit() for char in value)
    size = sum(char.isalnum() for char in value)
    enough = FEW if numbered else MANY
    return digits >= DIGITS and size >= enough and not _DATE.fullmatch(value)


def _shaped(text: str) -> Spans:
    for pattern in (_LAST, _SORT):
        for match in pattern.finditer(text):
            yield match.span("value")
    for match in _BIC.finditer(text):
        yield match.span("value" if match["value"] else "small")
    for pattern in (_PLATE, _SPOKEN_PLATE):
        for match in pattern.finditer(text):
            if _is_plate(match["value"]):
                yield match.span("value")
    for match in _NINO.finditer(text):
        yield match.span()
    for match in _VIN.finditer(text):
        if sum(char.isalpha() for char in match[0]) >= FEW:
            yield match.span()


def _is_plate(value: str) -> bool:
    size = sum(char.isalnum() for char in value)
    return size >= FEW and any(map(str.isdigit, value)) and any(map(str.isalpha, value))


def _marked(text: str) -> Spans:
    for match in _AT.finditer(text):
        if match["name"].lower() not in _NOBODY:
            yield match.span()
    for match in _SPACED.finditer(text):
        yield match.span()
    for pattern in (_FEDERATED, _REDDIT, _TAGGED, _LOGIN):
        for match in pattern.finditer(text):
            if match[0].partition("@")[0].lower() not in _NOBODY:
                yield match.span()
    for match in _HOME.finditer(text):
        if match["name"].lower() not in _NOBODY:
            yield match.span("name")


def _named(text: str) -> Spans:
    for pattern in (_CALLED, _FIELD):
        for match in pattern.finditer(text):
            name = match["name"]
            before = text[match.start() : match.start("name")]
            loose = pattern is _CALLED and not _SAYS.search(before)
            marked = _MARKED.search(name) is not None
            if name.lower() not in _NOBODY and (marked or not loose):
                yield match.span("name")
