"""How far off a figure may be: 95 % intervals of shares and of ratios of sums."""

import math
from collections.abc import Callable, Iterable, Sequence

from agent.core.types import Resolved
from agent.evaluation.scoring import ScoredAnswer, label_right, span_counts

Z = 1.959964  # of the normal distribution, for 95 %

Interval = tuple[float, float]
Part = tuple[float, float]  # what one text adds to numerator and denominator


def wilson(hits: int, n: int) -> Interval | None:
    """Return the Wilson score interval of a share (Wilson 1927); None without texts."""
    if not n:
        return None
    share, half = hits / n, Z * Z / (2 * n)
    spread = Z * math.sqrt(share * (1 - share) / n + half / (2 * n))
    low, high = ((share + half + sign * spread) / (1 + 2 * half) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def ratio(parts: Iterable[Part]) -> Interval | None:
    """Return the interval of a ratio of sums over texts, by linearisation.

    (Cochran, Sampling Techniques, 6.4.) None where the denominators add up to nothing,
    or for a single text.
    """
    pairs = list(parts)
    n, below = len(pairs), sum(under for _, under in pairs)
    if n < 2 or not below:  # noqa: PLR2004  no spread in one text
        return None
    value = sum(over for over, _ in pairs) / below
    squares = sum((over - value * under) ** 2 for over, under in pairs)
    spread = Z * math.sqrt(squares * n / (n - 1)) / below
    return max(0.0, value - spread), min(1.0, value + spread)


def intervals(
    answers: Sequence[ScoredAnswer], labels: frozenset[str]
) -> dict[str, Interval]:
    """Return the interval of each share of a Scoreboard that has one."""
    resolved = [a for a in answers if _is_resolved(a)]
    inside = [a for a in answers if a.example.label in labels]
    outside = [a for a in answers if a.example.label not in {None, *labels}]

    def right(answer: ScoredAnswer) -> bool:
        return label_right(answer, labels)

    by_name = {
        "accuracy": _share(_labelled(answers), right),
        "coverage": _share(answers, _is_resolved),
        "resolved_accuracy": _share(_labelled(resolved), right),
        "in_scope_accuracy": _share(inside, right),
        "in_scope_coverage": _share(inside, _is_resolved),
        "out_of_scope_kept": _share(outside, right),
        "span_f1": ratio(_f1_parts(answers)),
        "resolved_span_f1": ratio(_f1_parts(resolved)),
    }
    return {name: interval for name, interval in by_name.items() if interval}


def _share(
    answers: Sequence[ScoredAnswer], has: Callable[[ScoredAnswer], bool]
) -> Interval | None:
    return wilson(sum(map(has, answers)), len(answers))


def _labelled(answers: Sequence[ScoredAnswer]) -> list[ScoredAnswer]:
    return [answer for answer in answers if answer.example.label is not None]


def _is_resolved(answer: ScoredAnswer) -> bool:
    return isinstance(answer.decision, Resolved)


def _f1_parts(answers: Sequence[ScoredAnswer]) -> list[Part]:
    counts = span_counts(answers)
    if not any(true for true, _, _ in counts):
        return []
    return [(2 * hits, true + predicted) for true, predicted, hits in counts]
