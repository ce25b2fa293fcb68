"""The score from which on answers may stand with a certified bound on their error.

Selective classification with a guarantee: with probability 1 - DELTA over the
calibration data, at most `max_error` of what passes the threshold is wrong, on data
like it. Learn then Test (Angelopoulos et al. 2021, arXiv 2110.01052) with fixed
sequences: thresholds are tried from strict to lax in an order that looks at scores
only, each with an exact binomial test, and the first failure ends the sequence. That is
why no correction for many thresholds is needed.

Where to start is what decides: a single wrong label among the few surest answers ends a
sequence that starts there, and real labels are never all right. So one sequence starts
at half of the data, where some errors are bearable, and one at the fewest answers that
could be certified at all, for models that are good only there. The two share DELTA.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

DELTA = 0.05  # how often the guarantee may fail, over repeated calibrations
STEPS = 100  # thresholds of a sequence
STARTS = (0.5, 0.0)  # shares of the data that pass the first threshold of a sequence


@dataclass(frozen=True, slots=True)
class Claim:
    """One answer on calibration data: how sure, and whether right."""

    score: float
    right: bool


@dataclass(frozen=True, slots=True)
class Certificate:
    """The lowest certified threshold, and what passed it on the calibration data."""

    max_error: float
    threshold: float
    coverage: float
    error: float


def p_value(wrong: int, n: int, max_error: float) -> float:
    """Return P(X <= wrong) of X ~ Binomial(n, max_error).

    Small: so few errors among n are unlikely if the true error exceeded `max_error`.
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
    claims: Sequence[Claim], max_error: float, delta: float = DELTA
) -> Certificate | None:
    """Return the certificate for an error; None where the data cannot carry it."""
    ranked = sorted(claims, key=lambda claim: -claim.score)
    wrong = list(accumulate(not claim.right for claim in ranked))
    share = delta / len(STARTS)
    # With fewer answers even none wrong proves nothing.
    least = math.ceil(math.log(share) / math.log1p(-max_error))
    most = 0
    for start in STARTS:
        first = max(least, round(start * len(ranked)))
        for n in _sizes([claim.score for claim in ranked], first):
            if p_value(wrong[n - 1], n, max_error) > share:
                break
            most = max(most, n)
    if most == 0:
        return None
    return Certificate(
        max_error=max_error,
        threshold=ranked[most - 1].score,
        coverage=most / len(ranked),
        error=wrong[most - 1] / most,
    )


def _sizes(scores: Sequence[float], first: int) -> list[int]:
    """Return how many answers pass each threshold of a sequence, from `first` up.

    Equal scores pass or fail together.
    """
    sizes: set[int] = set()
    for step in range(STEPS + 1):
        n = first + round((len(scores) - first) * step / STEPS)
        while 0 < n < len(scores) and scores[n] == scores[n - 1]:
            n += 1
        if first <= n <= len(scores):
            sizes.add(n)
    return sorted(sizes)
