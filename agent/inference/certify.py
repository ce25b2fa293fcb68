"""The lowest score above which answers have a certified bound on their error.

Selective classification with a guarantee: with probability 1 - DELTA over the
calibration data, at most `max_error` of the answers above the threshold are wrong, on
data like it. The method is Learn then Test (Angelopoulos et al. 2021, arXiv 2110.01052)
with fixed sequences: thresholds are tried from strict to lax in an order that depends
on scores only, each with an exact binomial test, and the first failure ends the
sequence. So many thresholds need no correction.

One threshold applies to all tiers of a cascade, so the cascade is certified: the first
tier whose claim reaches the threshold answers.

The start of a sequence matters most: one wrong label among the few surest answers ends
a sequence that starts there, and real labels are never all right. So one sequence
starts at half of the data, where some errors are tolerable, and one at the fewest
answers that can be certified at all, for models that are good only there. The two share
DELTA; most of it goes to the first, which suits most models.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

DELTA = 0.05  # the share of repeated calibrations in which the guarantee may fail
STEPS = 100  # thresholds of a sequence
# Of each sequence: the share of the data that passes its first threshold, and the share
# of DELTA that it may use up.
SEQUENCES = ((0.5, 0.8), (0.0, 0.2))


@dataclass(frozen=True, slots=True)
class Claim:
    """One answer on calibration data: its score, 0 to 1, and whether it is right."""

    score: float
    right: bool


Case = Sequence[Claim]  # of one text, a claim a tier, cheapest first; may be empty


@dataclass(frozen=True, slots=True)
class Certificate:
    """The lowest certified threshold for `max_error`.

    `coverage` and `error` are the share of the calibration data that passes it, and the
    share of wrong answers among that.
    """

    max_error: float
    threshold: float
    coverage: float
    error: float


def p_value(wrong: int, n: int, max_error: float) -> float:
    """Return P(X <= wrong) for X ~ Binomial(n, max_error).

    It is small if so few errors among `n` are unlikely for a true error above
    `max_error`, which lies between 0 and 1.
    """
    if wrong >= n:
        return 1.0
    log_odds = math.log(max_error) - math.log1p(-max_error)
    term = n * math.log1p(-max_error)  # log P(X = 0)
    terms = [term]
    for k in range(1, wrong + 1):
        term += math.log(n - k + 1) - math.log(k) + log_odds
        terms.append(term)
    peak = max(terms)
    return min(1.0, math.exp(peak) * math.fsum(math.exp(t - peak) for t in terms))


def certify(
    cases: Sequence[Case], max_error: float, delta: float = DELTA
) -> Certificate | None:
    """Return the certificate for `max_error`, or None if the data cannot certify it.

    `cases` is the calibration data, `delta` the probability that the guarantee fails.
    """
    sure = sorted((_surest(case) for case in cases), reverse=True)
    most = wrong_of_most = 0
    for start, portion in SEQUENCES:
        share = portion * delta
        # With fewer answers not even zero errors prove anything.
        least = math.ceil(math.log(share) / math.log1p(-max_error))
        first = max(least, round(start * len(sure)))
        for n in _sizes(sure, first):
            wrong = _wrong(cases, sure[n - 1])
            if p_value(wrong, n, max_error) > share:
                break
            if n > most:
                most, wrong_of_most = n, wrong
    if most == 0:
        return None
    return Certificate(
        max_error=max_error,
        threshold=sure[most - 1],
        coverage=most / len(cases),
        error=wrong_of_most / most,
    )


def _surest(case: Case) -> float:
    """Return the highest threshold at which a text is answered; below 0: never."""
    return max((claim.score for claim in case), default=-1.0)


def _wrong(cases: Sequence[Case], threshold: float) -> int:
    """Count the wrong answers of the cascade at a threshold."""
    wrong = 0
    for case in cases:
        answer = next((claim for claim in case if claim.score >= threshold), None)
        wrong += answer is not None and not answer.right
    return wrong


def _sizes(scores: Sequence[float], first: int) -> list[int]:
    """Return how many answers pass each threshold of a sequence, from `first` up.

    `scores` are sorted from high to low. Equal scores pass or fail together; texts that
    no tier answers (scores below 0) never pass.
    """
    last = sum(score >= 0 for score in scores)
    sizes: set[int] = set()
    for step in range(STEPS + 1):
        n = first + round((last - first) * step / STEPS)
        while 0 < n < last and scores[n] == scores[n - 1]:
            n += 1
        if first <= n <= last:
            sizes.add(n)
    return sorted(sizes)
