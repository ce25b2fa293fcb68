"""What the words around it give away: secrets, numbers of people, names of users."""

# ruff: noqa: RUF001 - letters that look like ours are what this is about

import pytest

from agent.inference.patterns import KINDS, find

FOUND = {
    "SECRET": [
        "pw: <hunter2>",
        "the wifi password is <bluegiraffe77>.",
        "pin <nine oh two one>",
        "my pin is <one two three four>.",
        "password <Tr0ub4dor&3> works",
        "pin's <6612>",
        "unlock it with <4590> at night",
        "keypad: <8812>",
        "wifi: HomeNet / <dancing7bears>",
        "credentials admin / <Pa55w0rd!>",
        "my pin is <4821>, don't tell",
        "Gate code <7719#>",
        "door code for the shed: <2468>",
        "code for the safe is <20-15-33>",
        "your one-time code is <583920>",
        "CVV <392>",
        "passcode=<Winter#2024>",
        'password: "<blue sky 9>"',
        "db password '<s3cr3t-Pass!>' leaked",
        "password: <Blue Sky 99>",
        "secret: <9f8e7d6c5b4a39281706f5e4d3c2b1a0>",
        "use <sk-proj-abc123def456ghi789>",
        "<ghp_16C7e42F292c6912E7710c838347Ae178B4a>",
        "<AKIAIOSFODNN7EXAMPLE>!",
        "<xoxb-123456789012-abcdefGHIJKL>",
        "cookie <eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiJ9.Qk3xV9aLm2Zt>",
        "Authorization: Bearer <a1b2c3d4e5f6g7h8>",
        "paste <Zx81kQw09LmN3bVcXz7PqRt> here",
        "<-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY----->\nok",
        "<-----BEGIN PRIVATE KEY-----\nMIIB",
    ],
    "ID_NUMBER": [
        "booking <7KD-2201> please",
        "PNR <QX7RTZ>",
        "my booking reference is <QXRTZB>",
        "passport no. <X1234567> expired",
        "her passport number is <533380006>",
        "sort code <40-47-84>",
        "account number: <70872490>",
        "BIC <COBADEFFXXX>",
        "swift code <NWBKGB2L>",
        "bic is <deutdeff>",
        "MRN <0048-2913>",
        "NHS number <943 076 5919>",
        "plate <AB12 CDE>",
        "license plate <8xyz321> blocks us",
        "policy number <HX 993 120 55>",
        "member id <00428817>",
        "account ending in <4455>",
        "case number <2023-CR-00417>",
        "<QQ 12 34 56 C>",
        "<1HGCM82633A004352>",
        "extension <eight, two, four, six>",
    ],
    "HANDLE": [
        "ask <@jane_doe92>",
        "insta: <sunny.days>",
        "my discord is <nightowl#4821>",
        "by <u/quietwinter>",
        "login: <jsmith>",
        "user=<jdoe> failed",
        "cd /home/<jdoe>/x",
        r"C:\Users\<g.mayer>\x",
        "ssh <ops@gateway> now",
        "logged in as <hkarlsson>",
        "user <rthompson2> cannot print",
        "venmo me <@tom-b-22>",
        "toot <@ida@social.example>",
    ],
    "PHONE_NUMBER": ["call <oh seven seven double zero nine one two three>"],
    "EMAIL_ADDRESS": ["write to <ann dot lee at example dot com>, please"],
    "DATE_TIME": [
        "finished <2024-03-18 02:14:55> without errors",
        "born at <13:49:17>, a girl",
        "sent <Mar 18 02:14:55 2024>",
    ],
    "DOMAIN_NAME": ["see <example dot co dot uk>"],
}
CASES = [(kind, text) for kind, texts in FOUND.items() for text in texts]

HARMLESS = [
    "2024-03-18 02:14:55 ERROR db: timeout",
    "the password is wrong",
    "password reset, please",
    "forgot my pin again",
    "token expired",
    "pin 3 of the plug",
    "error code: 404",
    "zip code is 2000",
    "status code is 500",
    "the code compiles",
    "booking fees are high",
    "booking for two at noon",
    "my account is locked",
    "the claim was denied",
    "policy of 2024",
    "case 12",
    "member of the team",
    "license to operate",
    "plate 12 mm",
    "order 48213 contains three items",
    "tracking code 1Z999AA10123456784",
    "Invoice 88213 is overdue",
    "part number 55-1290-A",
    "use @property and @Override",
    "meet @ noon",
    "user root logged in",
    "username is required",
    "twitter is down",
    "one two three four five",
    "three, two, one",
    "a two four combination of bolts",
    "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
    "id 7f3c1d2e-55aa-4bcd-9e10-0c1d2e3f4a5b",
    "InternationalizationOfEverything",
    "#10ThingsThatAreAttractive",
    "10ThingsThatAreAttractive",
    "is a SWIFT transfer possible",
    "dave bickler to my list",
    "my passcode was denied",
    "change my PIN - do I need to",
    "live~legend",
    "user manual for two",
    "unlock with care",
    "alarm 17 on press 4",
    "pin 14 on connector J3",
    "step one two then three",
    "the look at the dot",
]


@pytest.mark.parametrize(("kind", "marked"), CASES)
def test_said_by_the_words_around_it(kind: str, marked: str) -> None:
    """What stands between the marks is found, whole and nothing else."""
    before, _, rest = marked.partition("<")
    words, _, after = rest.rpartition(">") if ">" in rest else (rest, "", "")
    text = before + words + after
    assert [(e.label, e.text, e.start) for e in find(text, KINDS)] == [
        (kind, words, len(before))
    ]


@pytest.mark.parametrize("text", HARMLESS)
def test_words_that_announce_nothing(text: str) -> None:
    """The same words without a number or a secret behind them are left alone."""
    assert find(text, KINDS) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("передайте Ивану Петрову, ok", ["передайте Ивану Петрову"]),
        ("王小明 lives in 北京", ["王小明", "北京"]),
        ("ask 김민수 or محمد العلي", ["김민수", "محمد العلي"]),
        ("Γιώργος, Μαρία and Ann", ["Γιώργος, Μαρία"]),
        ("5 µm, 10 kΩ, angle α, Δp", []),
        ("naïve Ångström façade Łódź ẞ", []),
        ("1ª, 2º, №3, ℡", []),
        ("ask Ａｎｎ Ｓｍｉｔｈ", ["Ａｎｎ Ｓｍｉｔｈ"]),
        ("हिन्दी में", ["हिन्दी में"]),
    ],
)
def test_letters_of_other_scripts(text: str, found: list[str]) -> None:
    """Words in other scripts are found whole; single letters are symbols."""
    assert [e.text for e in find(text, {"OTHER_SCRIPT"})] == found
