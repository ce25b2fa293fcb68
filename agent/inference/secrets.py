"""Secrets: what opens a door or an account, by its prefix, its disorder or its name.

A key of a known maker has a prefix; a random one mixes letters and digits as no word
does; a password is what stands behind the word "password".
"""

import re

from agent.inference.folding import Spans, united
from agent.inference.spoken import DIGIT

# Keys by their makers' prefixes. What follows is as long as it is.
_PREFIXED = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:sk|rk|pk)[_\-](?:live|test|proj|ant|or|svcacct)[_\-][A-Za-z0-9_\-]{8}"
    r"|sk-[A-Za-z0-9_\-]{12}"
    r"|gh[pousr]_[A-Za-z0-9]{12}|github_pat_[A-Za-z0-9_]{12}|glpat-[A-Za-z0-9_\-]{12}"
    r"|(?:AKIA|ASIA|AGPA|AROA)[A-Z0-9]{12}|AIza[A-Za-z0-9_\-]{16}|ya29\.[A-Za-z0-9_\-]{8}"
    r"|xox[abeprs]-[A-Za-z0-9\-]{8}|xapp-[A-Za-z0-9\-]{8}"
    r"|eyJ[A-Za-z0-9_\-]{8}|SG\.[A-Za-z0-9_\-]{12}|hf_[A-Za-z0-9]{12}"
    r"|npm_[A-Za-z0-9]{12}|pypi-[A-Za-z0-9_\-]{12}|do[opr]_v1_[a-f0-9]{12}"
    r"|shp(?:at|ca|pa|ss)_[A-Za-z0-9]{12}|sq0[a-z]{3}-[A-Za-z0-9_\-]{12}"
    r"|whsec_[A-Za-z0-9]{12}|dckr_pat_[A-Za-z0-9_\-]{12}|tskey-[A-Za-z0-9\-]{8}"
    r"|AGE-SECRET-KEY-[A-Z0-9]{12}|SK[a-f0-9]{32}|key-[a-f0-9]{24}"
    r"|ssh-(?:rsa|ed25519|dss) AAAA[A-Za-z0-9+/]{8}"
    r")[A-Za-z0-9+/_.=\-]*"
)
_BLOCK = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----")
_BLOCK_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----")
_HEADER = re.compile(
    r"(?<!\w)(?:bearer|basic|apikey|token)[ :]{1,2}"
    r"(?P<value>(?=[A-Za-z_\-.]{0,80}\d)[A-Za-z0-9+/_.=\-]{12,})",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"[A-Za-z0-9+/_=\-]+")
_PART = re.compile(r"[A-Za-z0-9]+")
RANDOM = 16  # characters from which on a mixture of letters and digits is no word
LONGEST = 200  # characters of it that are looked at
PIECE = 2.5  # letters of a word, or digits, that stand together in a mixture at most
_PIECE = re.compile(r"[A-Z]?[a-z]{1,200}|[A-Z]{1,200}|[0-9]{1,200}")

_NAMES = (
    r"pass ?word|passwort|pass ?code|pass ?phrase|passwd|pwd|pw|pass|pins?"
    r"|pin[ \-]?code"
    r"|secret(?:[ _\-]?key)?|(?:api|access|auth|private|licen[cs]e|product|activation"
    r"|recovery|encryption|wi-?fi|wlan|wpa2?|network|shared|master|backup|session)"
    r"[ _\-]?(?:key|token|secret|password|phrase)s?|token|cvv2?|cvc2?|csc|puk|otp|totp"
    r"|(?:one[ \-]time|verification|security|access|door|gate|entry|alarm|unlock|lock"
    r"|safe|garage|building|login|log-in|sign-in|sms|auth|authentication|2fa|mfa|keypad"
    r"|lockbox|key ?box|front door|back door|intercom|elevator|lift|backup|recovery"
    r"|vault|house|shed|barn|bike lock|disarm|burglar alarm|card|telephone banking"
    r"|voicemail|sim|device|pairing|bluetooth|tan|room)"
    r"[ \-]?(?:code|pin|combination|combo|password)s?"
    r"|combination|combo|seed phrase|mother'?s maiden name"
)
_CUE = re.compile(rf"(?<![A-Za-z0-9])(?:{_NAMES})(?![A-Za-z0-9])", re.IGNORECASE)
_FOR = (
    r"(?:\s(?:for|to|of|on|at)\s(?:the\s|my\s|our\s|your\s|his\s|her\s)?\w{1,20}"
    r"(?:\s(?!is\b|was\b)\w{1,20})?)?"
)
# A sign or a verb: from here on it is the secret.
_SIGN = re.compile(
    rf"[\"')\]]{{0,2}}(?:\s(?:number|no\.?|code|key))?{_FOR}"
    r"\s{0,2}(?:[:=]|->|=>|:=|-(?=\s))\s{0,3}",
    re.IGNORECASE,
)
_VERB = re.compile(
    rf"(?:\s(?:number|no\.?|code|key))?{_FOR}(?:'s|\s"
    r"(?:is|was|are|now|will be|became|changed to|set to|reset to|stays))\s"
    r"(?:now\s|still\s|set to\s|just\s|always\s|called\s)?",
    re.IGNORECASE,
)
_BARE = re.compile(
    r"(?:\s(?:number|no\.?|code|key|of))?\s{1,2}(?:#\s?)?", re.IGNORECASE
)
_QUOTED = re.compile(r"([\"'`])(?P<value>[^\"'`\n]{1,120})\1")
_WORD = re.compile(r"(?P<value>[^\s\"'<>]{1,200})")
_MORE = re.compile(r"(?: (?=[A-Z]|[^\s\d]{0,12}\d)[^\s\"'<>.,;]{1,40}){1,5}(?![\w])")
_FIGURES = re.compile(
    r"(?P<value>(?=[^\s\d]{0,20}\d)[^\s\"'<>,;()]{2,64}[^\s\"'<>,;().:!?]"
    r"(?:[ \-]\d{1,6}){0,4})(?![\w%])"
)
_SAID = re.compile(
    rf"(?P<value>{DIGIT}(?:(?:,? |-){DIGIT}){{2,11}})(?!\w)", re.IGNORECASE
)
# A name, a stroke, and the secret: "wifi: HomeNet / dancing7bears".
_PAIR = re.compile(
    r"(?<!\w)(?:wi-?fi|wlan|ssid|credentials?|creds|log-?in)(?:\s?[:=]|\sis|\sare)?\s"
    r"[^\s/]{1,32}\s?/\s?(?P<value>[^\s/\"'<>]{4,64}(?<![.,;]))",
    re.IGNORECASE,
)
_OPENS = re.compile(
    r"(?<!\w)(?:(?:unlock|disarm|open|enter|log in)(?:s|ed)? (?:it |the \w{1,12} )?with"
    r"|(?:keypad|alarm|lock)(?:\s(?:is|was)|\s?[:=]))\s(?P<value>\d{3,8})[#*]?(?![\w%.])",
    re.IGNORECASE,
)
_CODE = re.compile(
    r"(?<!\w)(?:(?:the|my|your|our|his|her|new|this) code|code)"
    rf"(?:\s(?:number))?{_FOR}(?:\s(?:is|was)\s|:\s?|\s?=\s?)"
    r"(?P<value>\d[\d \-]{2,9}\d|\d{3,8})[#*]?(?![\w%])",
    re.IGNORECASE,
)
# "error code: 404" is nobody's secret.
_HARMLESS_CODE = re.compile(
    r"(?:error|exit|status|return|fault|zip|postal|post|country|area|dialling|dialing|qr"
    r"|promo|discount|voucher|coupon|colou?r|dress|source|hs|icd|sku|product|part|model"
    r"|item|batch|lot|trouble|diagnostic|event|alarm|response|http|machine|reason|result)"
    r"[ \-]$",
    re.IGNORECASE,
)
# What people say of a password without telling it.
_TALKED = """
a about above accepted again all already also always an and any are as asked at be
because been being below blocked broken but by can cannot case changed changing
compromised correct could deleted denied did different disclosed does doesn't don't
easy empty enabled enough entered entering even exactly expired expiring false fine
first for forgotten from given gone good had hard has have he hello here hidden i if
ignored in incorrect insecure invalid is it its just known leaked like locked long
longer lost me mine missing more much must my needed never new no nobody none not
nothing null of off ok old on one only optional or our out please protected publicly
really rejected required reset right safe same saved secret secure sensitive sent set
she short should shown simple so some something still stolen stored strong that the
their them then there they this to too transferred true unchanged undefined under
unknown unlocked up updated used useless valid very was we weak well were what when
where which who why will with working wrong you your
"""
_TALK = frozenset(_TALKED.split())
_ENDS = ".,;:!?)]}\"'"
SHORTEST = 2  # characters of a password behind a sign
BEFORE = 24


def secrets(text: str) -> Spans:
    """Yield keys and tokens, and what is called a password, a PIN or a code."""
    yield from united([*_keys(text), *_random(text), *_called(text)])


def _keys(text: str) -> Spans:
    for match in _PREFIXED.finditer(text):
        value = match[0].rstrip(".=-")
        yield match.start(), match.start() + len(value)
    at = 0
    while (begin := _BLOCK.search(text, at)) is not None:
        closing = _BLOCK_END.search(text, begin.end())
        at = closing.end() if closing else len(text)
        yield begin.start(), at
    for match in _HEADER.finditer(text):
        yield match.span("value")


def _random(text: str) -> Spans:
    """Yield what mixes capitals, small letters and digits as nobody writes."""
    for match in _TOKEN.finditer(text):
        if len(match[0]) < RANDOM:
            continue
        if text[max(0, match.start() - 2) : match.start()].strip().endswith("#"):
            continue
        parts = _PART.findall(match[0][:LONGEST])
        if any(is_random(part) for part in parts):
            yield match.start(), match.start() + len(match[0].rstrip("-_/"))


def is_random(word: str) -> bool:
    """Tell whether letters and digits were drawn and not written."""
    classes = (str.isdigit, str.isupper, str.islower)
    mixed = all(any(map(belongs, word)) for belongs in classes)
    pieces = _PIECE.findall(word)
    return len(word) >= RANDOM and mixed and len(word) <= PIECE * len(pieces)


def _called(text: str) -> Spans:
    """Yield what stands behind the name of a secret."""
    for cue in _CUE.finditer(text):
        yield from _behind(text, cue)
    for pattern in (_PAIR, _OPENS):
        for match in pattern.finditer(text):
            yield match.span("value")
    for match in _CODE.finditer(text):
        before = text[max(0, match.start() - BEFORE) : match.start()] + " "
        if not _HARMLESS_CODE.search(before.replace("  ", " ")):
            yield match.span("value")


def _behind(text: str, cue: re.Match[str]) -> Spans:
    sign = _SIGN.match(text, cue.end())
    if sign:
        value = _value(text, sign.end())
        dashed = sign[0].strip().endswith("-")
        if value and _tells(value["value"], plain=not dashed):
            start, end = _cut(value)
            more = _MORE.match(text, value.end())
            yield start, more.end() if more and end == value.end() else end
        return
    verb = _VERB.match(text, cue.end())
    if verb:
        value = _value(text, verb.end())
        if value and _tells(value["value"]):
            yield _cut(value)
        return
    bare = _BARE.match(text, cue.end())
    if bare is None:
        return
    for pattern in (_QUOTED, _SAID, _FIGURES):
        value = pattern.match(text, bare.end())
        if value:
            yield value.span("value")
            return


def _value(text: str, at: int) -> re.Match[str] | None:
    """Return what stands here, as `value`: in quotes, said in digits, or a word."""
    matches = (pattern.match(text, at) for pattern in (_QUOTED, _SAID, _WORD))
    return next((match for match in matches if match), None)


def _tells(value: str, *, plain: bool = True) -> bool:
    """Tell whether a word may be a secret; `plain`: also one without a digit."""
    word = value.strip(_ENDS).lower()
    if len(word) < SHORTEST or word in _TALK:
        return False
    return any(map(str.isalnum if plain else str.isdigit, word))


def _cut(value: re.Match[str]) -> tuple[int, int]:
    start, end = value.span("value")
    kept = value["value"].rstrip(".,;:)]}") or value["value"]
    return start, min(end, start + len(kept))
