"""The certificate: exact, refused where the data cannot carry it, and kept."""

import math
import random
from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.inference import certify as certify_module
from agent.inference.certify import Certificate, Claim, certify, p_value

CALIBRATIONS = 300
N = 600
BARELY = 0.0501  # wrong, where 0.05 is allowed
Draw = Callable[[random.Random], Claim]


@pytest.mark.parametrize(
    ("wrong", "n", "max_error", "passes"),
    [
        # docs of exact binomial bounds: answers needed at 95 % for 0, 1, 2, 5, 10 wrong
        (0, 59, 0.05, True),
        (0, 58, 0.05, False),
        (1, 93, 0.05, True),
        (1, 92, 0.05, False),
        (2, 124, 0.05, True),
        (5, 208, 0.05, True),
        (5, 207, 0.05, False),
        (10, 336, 0.05, True),
        (10, 335, 0.05, False),
        (3, 773, 0.01, True),
        (3, 772, 0.01, False),
    ],
)
def test_known_sample_sizes(
    wrong: int, n: int, max_error: float, *, passes: bool
) -> None:
    """The exact binomial test passes from the published sample sizes on."""
    assert (p_value(wrong, n, max_error) <= 0.05) is passes


@pytest.mark.parametrize("n", [1, 7, 30])
@pytest.mark.parametrize("max_error", [0.01, 0.2, 0.7])
def test_p_value_equals_the_sum(n: int, max_error: float) -> None:
    """It is the binomial distribution function, summed the slow way."""
    for wrong in range(n + 1):
        slow = math.fsum(
            math.comb(n, k) * max_error**k * (1 - max_error) ** (n - k)
            for k in range(wrong + 1)
        )
        assert p_value(wrong, n, max_error) == pytest.approx(slow)


def test_too_few_answers_certify_nothing() -> None:
    """62 right answers of 62 say too little for 5 %, 63 say enough.

    63 = ln(0.05 * 0.8) / ln(0.95): a sequence has four fifths of the 5 %.
    """
    assert certify([[Claim(0.9, right=True)]] * 62, 0.05) is None
    assert certify([[Claim(0.9, right=True)]] * 63, 0.05) == Certificate(
        max_error=0.05, threshold=0.9, coverage=1.0, error=0.0
    )


def test_a_wrong_label_at_the_top_is_bearable() -> None:
    """One error among the very surest answers does not forbid all the others."""
    claims = [Claim(1 - n / 1000, right=n != 3) for n in range(400)]
    found = certify([[claim] for claim in claims], 0.05)
    assert found is not None
    assert found.coverage == 1.0


def test_only_the_top_is_good() -> None:
    """A model that is right only where it is surest is certified there."""
    claims = [Claim(1 - n / 1000, right=n < 150 or n % 3 > 0) for n in range(600)]
    found = certify([[claim] for claim in claims], 0.05)
    assert found is not None
    assert 0.2 < found.coverage < 0.3


def test_equal_scores_stay_together() -> None:
    """A threshold lets all equal scores pass, so all of them are counted."""
    claims = [Claim(0.9, right=True)] * 100 + [Claim(0.5, right=False)] * 100
    found = certify([[claim] for claim in claims], 0.05)
    assert found is not None
    assert (found.threshold, found.coverage) == (0.9, 0.5)


# -- cascades


def sure(score: float, *, right: bool = True) -> Claim:
    """Return a claim."""
    return Claim(score, right=right)


def test_the_first_tier_that_is_sure_enough_answers() -> None:
    """A later tier may be surer, but is not asked any more."""
    both_right = [[sure(0.5), sure(0.9)]] * 200
    assert certify(both_right, 0.05) == Certificate(0.05, 0.9, 1.0, 0.0)
    lower = [*both_right, *[[sure(0.2), sure(0.4)]] * 100]
    assert certify(lower, 0.05) == Certificate(0.05, 0.4, 1.0, 0.0)


def test_wrong_answers_of_an_early_tier_count() -> None:
    """That a later tier would have been right is no excuse.

    At 0.9 the later tier answers 200 texts rightly. A lower threshold would let another
    100 be answered, but the early tier, wrong on the 200, would come before.
    """
    cases = [[sure(0.6, right=False), sure(0.9)]] * 200 + [[sure(0.5), sure(0.5)]] * 100
    assert certify(cases, 0.05) == Certificate(0.05, 0.9, 200 / 300, 0.0)
    harmless = [[sure(0.4, right=False), sure(0.9)]] * 200 + cases[200:]
    assert certify(harmless, 0.05) == Certificate(0.05, 0.5, 1.0, 0.0)


def test_wrong_answers_of_a_later_tier_may_not_count() -> None:
    """What the early tier answers rightly, a later one cannot spoil."""
    cases = [[sure(0.9), sure(0.95, right=False)]] * 100
    assert certify(cases, 0.05) is None  # at 0.95 the later tier would be asked
    lower = [*cases, *[[sure(0.8)]] * 300]
    assert certify(lower, 0.05) == Certificate(0.05, 0.8, 1.0, 0.0)


def test_texts_that_no_tier_answers_never_pass() -> None:
    """They lie below every threshold, and lower the coverage."""
    cases: list[list[Claim]] = [[sure(0.0)]] * 100 + [[]] * 300
    assert certify(cases, 0.05) == Certificate(0.05, 0.0, 0.25, 0.0)
    assert certify([[]] * 300, 0.05) is None
    assert certify([], 0.05) is None


CLAIMS = st.builds(Claim, st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0]), st.booleans())


@given(st.lists(st.lists(CLAIMS, max_size=3), min_size=10, max_size=300))
def test_certificate_tells_what_happens(cases: list[list[Claim]]) -> None:
    """Coverage and error are those of the cascade at the threshold, replayed."""
    found = certify(cases, 0.3)
    if found is None:
        return
    answers = []
    for case in cases:
        for claim in case:
            if claim.score >= found.threshold:
                answers.append(claim)
                break
    wrong = sum(not claim.right for claim in answers)
    assert found.coverage == len(answers) / len(cases)
    assert found.error == wrong / len(answers)
    assert p_value(wrong, len(answers), 0.3) <= 0.025


# -- the promise


def _sure(chance: random.Random) -> Claim:
    """Draw an honest score: right as often as it says."""
    score = chance.betavariate(9, 1)
    return Claim(score, right=chance.random() < score)


def _flat(chance: random.Random) -> Claim:
    """Draw a score that says nothing; more is wrong than allowed, but hardly more."""
    return Claim(chance.random(), right=chance.random() >= BARELY)


@cache
def _world(draw: Draw) -> list[Claim]:
    """Return many fresh draws: the truth."""
    chance = random.Random("truth")  # noqa: S311
    return [draw(chance) for _ in range(60_000)]


def _risk(draw: Draw, threshold: float) -> float:
    """Return the true error above a threshold."""
    if draw is _flat:
        return BARELY
    passed = [claim for claim in _world(draw) if claim.score >= threshold]
    return sum(not claim.right for claim in passed) / len(passed)


def _violations(
    draw: Draw, choose: Callable[[list[Claim]], float | None], max_error: float
) -> float:
    """Return how often a calibration ends in a threshold that breaks its promise."""
    truth: dict[float, float] = {}
    broken = 0
    for number in range(CALIBRATIONS):
        chance = random.Random(number)  # noqa: S311
        threshold = choose([draw(chance) for _ in range(N)])
        if threshold is None:
            continue
        rounded = min(0.99, round(threshold, 2))  # the truth is smooth
        if rounded not in truth:
            truth[rounded] = _risk(draw, rounded)
        broken += truth[rounded] > max_error
    return broken / CALIBRATIONS


def _certified(claims: list[Claim]) -> float | None:
    found = certify([[claim] for claim in claims], 0.05)
    return None if found is None else found.threshold


def _twice(claims: list[Claim]) -> float | None:
    """Forget that two sequences share DELTA: each has twice of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certify_module, "SEQUENCES", ((0.5, 2.0), (0.0, 2.0)))
        return _certified(claims)


def _tuned(claims: list[Claim]) -> float | None:
    """Choose as one would without thinking: the error seen is the error to come."""
    ranked = sorted(claims, key=lambda claim: -claim.score)
    chosen = None
    wrong = 0
    for n, claim in enumerate(ranked, start=1):
        wrong += not claim.right
        if wrong / n <= 0.05:
            chosen = claim.score
    return chosen


# Three standard errors of a share of 0.05 over the calibrations are allowed on top.
ALLOWED = 0.05 + 3 * math.sqrt(0.05 * 0.95 / CALIBRATIONS)


@pytest.mark.parametrize("draw", [_sure, _flat])
def test_the_promise_is_kept(draw: Draw) -> None:
    """At most about 5 % of the calibrations certify a threshold that is too lax."""
    assert _violations(draw, _certified, 0.05) <= ALLOWED


@pytest.mark.parametrize(
    ("draw", "choose"), [(_sure, _tuned), (_flat, _tuned), (_flat, _twice)]
)
def test_a_broken_certificate_is_caught(
    draw: Draw, choose: Callable[[list[Claim]], float | None]
) -> None:
    """The same simulation catches a threshold tuned to the error seen, and a lax DELTA.

    The latter only where hardly more than allowed is wrong.
    """
    assert _violations(draw, choose, 0.05) > ALLOWED
