"""Where something is, to the metre: coordinates, and the addresses of network cards."""

import re

from agent.inference.folding import Spans

_MAC = re.compile(
    r"(?<![\w:\-.])(?:[0-9a-f]{2}(?:([:\-])[0-9a-f]{2})(?:\1[0-9a-f]{2}){4}"
    r"(?:(?:\1[0-9a-f]{2}){2})?|[0-9a-f]{4}(?:\.[0-9a-f]{4}){2})(?![\w:\-]|\.\w)",
    re.IGNORECASE,
)
_SIGNED = r"[+\-]?\d{1,3}\.\d"
_HEMISPHERE = r"(?: ?° ?| )?[NSEW]"
# 52.5200, 13.4050 and 52.52N 13.4E and 52.52°, 13.40°
_DECIMAL = re.compile(
    rf"(?<![\w.])(?P<lat>{_SIGNED}{{2,15}})(?P<a>{_HEMISPHERE}(?!\w)|°)?"
    rf"(?:\s{{0,2}}[,;/|]\s{{0,2}}|\s{{1,2}})"
    rf"(?P<lon>{_SIGNED}{{2,15}})(?P<b>{_HEMISPHERE}(?!\w)|°)?(?![\w.]\d|\w)"
)
# 40°26'46"N; folding makes two primes of a double one
_ARC = (
    r"\d{1,3} ?[°º] ?\d{1,2}(?:\.\d{1,6})? ?(?:'|\u2032|\u2019|min)"
    r"(?: ?\d{1,2}(?:\.\d{1,6})? ?(?:\"|''|\u2032\u2032|\u201d|\u2019\u2019))?"
    r" ?[NSEWO]?(?!\w)"
)
_SEXAGESIMAL = re.compile(rf"(?<!\w){_ARC}(?:[ ,;/]{{1,3}}{_ARC})?")
_NAMED = re.compile(
    r"(?<!\w)(?:lat(?:itude)?|lon(?:g(?:itude)?)?|lng)\b[\"'_ ]{0,3}(?:[:=]|is|of)?"
    rf"[\"' ]{{0,2}}(?P<value>{_SIGNED}{{1,15}})",
    re.IGNORECASE,
)
_GEO = re.compile(r"(?<!\w)geo:[+\-]?\d{1,3}\.\d{1,15},[+\-]?\d{1,3}\.\d{1,15}")
_PLUS = re.compile(
    r"(?<![\w+])[23456789CFGHJMPQRVWX]{4,8}\+[23456789CFGHJMPQRVWX]{2,3}(?![\w+])"
)
_WORDS = re.compile(
    r"(?<![\w/:])///[a-z]{2,24}\.[a-z]{2,24}\.[a-z]{2,24}(?!\w|\.\w)", re.IGNORECASE
)
EXACT, EXACTER = 3, 4  # decimals of a place, with a comma between its numbers or none
NORTH, EAST = 90.0, 180.0


def macs(text: str) -> Spans:
    """Yield hardware addresses: `00:1a:2b:3c:4d:5e`, `001a.2b3c.4d5e`."""
    for match in _MAC.finditer(text):
        letters = re.sub(r"[^0-9a-f]", "", match[0].lower())
        if len(set(letters)) > 1:
            yield match.span()


def coordinates(text: str) -> Spans:
    """Yield coordinates and codes of places (plus codes, what3words)."""
    for match in _DECIMAL.finditer(text):
        if _is_place(match):
            yield match.span()
    for pattern in (_SEXAGESIMAL, _GEO, _WORDS):
        for match in pattern.finditer(text):
            yield match.span()
    for match in _NAMED.finditer(text):
        yield match.span("value")
    for match in _PLUS.finditer(text):
        if any(char.isdigit() for char in match[0]):
            yield match.span()


def _is_place(match: re.Match[str]) -> bool:
    lat, lon = match["lat"], match["lon"]
    marked = bool(match["a"] and match["b"])
    between = match.string[match.end("lat") : match.start("lon")]
    wanted = EXACTER if between.isspace() else EXACT
    exact = min(len(number.partition(".")[2]) for number in (lat, lon))
    return (
        (marked or exact >= wanted)
        and abs(float(lat)) <= NORTH
        and abs(float(lon)) <= EAST
    )
