"""How good answers are: told by reason, and an alert where nearly all are useless."""

from agent.escalation.answer_quality import HOUR_S, AnswerQuality


def test_nearly_all() -> None:
    """Nine of ten that are of no use are a pattern; eight, or two at all, are none."""
    quality = AnswerQuality()
    quality.note("cut", 0.0)
    quality.note("cut", 1.0)
    assert quality.complaint(1.0) == ""
    for number in range(7):
        quality.note("no_json", float(number))
    quality.note("", 8.0)
    assert quality.complaint(9.0) == (
        "9 of 10 answers of the last hour are of no use: no_json 7, cut 2"
    )
    quality.note("", 10.0)
    assert quality.complaint(10.0) == ""
    assert quality.unusable == {"cut": 2, "no_json": 7}


def test_an_hour_later() -> None:
    """What was wrong more than an hour ago is counted, and no reason for an alert."""
    quality = AnswerQuality()
    for _ in range(5):
        quality.note("declined", 0.0)
    assert quality.complaint(HOUR_S - 1)
    assert quality.complaint(HOUR_S + 61) == ""
    assert quality.unusable["declined"] == 5


def test_bounded() -> None:
    """However many answers there are, an hour of them takes little room."""
    quality = AnswerQuality()
    for second in range(20_000):
        quality.note("cut", float(second))
    assert len(quality._slices) <= 62
