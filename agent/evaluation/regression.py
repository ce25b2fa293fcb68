"""Logistic regression: from the evidence of answers to how likely each is right."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.evaluation.scoring import aurc
from agent.inference.calibration import Logistic

PENALTY = 1.0  # of the squared weights of standardised evidence
STEPS = 50
TINY = 1e-9
FOLDS = 5

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def told_apart(
    inside: Sequence[tuple[float, ...]], outside: Sequence[tuple[float, ...]]
) -> Logistic | None:
    """Return what tells texts in scope from others, if there are both."""
    if not (inside and outside):
        return None
    evidence = np.array([*inside, *outside], np.float64)
    return logistic(evidence, np.arange(len(evidence)) < len(inside))


def judge(
    evidence: Sequence[tuple[float, ...]], right: Sequence[bool]
) -> Logistic | None:
    """Return what tells right from wrong best: the first evidence alone, or all of it.

    Judged by the area under the risk-coverage curve, cross-validated.
    """
    if not evidence:
        return None
    all_of_it = np.array(evidence, np.float64)
    truth = np.array(right)
    first = all_of_it.copy()
    first[:, 1:] = 0.0  # evidence that is always 0 gets the weight 0
    candidates = (first, all_of_it) if all_of_it.shape[1] > 1 else (first,)
    best = min(candidates, key=lambda columns: _risk(columns, truth))
    return logistic(best, truth)


def _risk(evidence: Floats, right: Bools) -> float:
    scores = np.zeros(len(right))
    fold = np.arange(len(right)) % FOLDS
    for number in range(FOLDS):
        held = fold == number
        if held.all() or not held.any():
            continue
        made = logistic(evidence[~held], right[~held])
        scores[held] = [made(row) for row in evidence[held].tolist()]
    return aurc(scores.tolist(), (~right).tolist()) or 0.0


def logistic(evidence: Floats, right: Bools) -> Logistic:
    """Fit by Newton's method, with a penalty that keeps it finite on separable data.

    `evidence`: texts x numbers. One imagined right and one wrong answer keep the bias
    finite where all answers are right.
    """
    mean = evidence.mean(axis=0)
    spread = evidence.std(axis=0)
    spread[spread < TINY] = np.inf  # constant evidence says nothing
    inner = np.column_stack([(evidence - mean) / spread, np.ones(len(evidence))])
    imagined = np.zeros((2, inner.shape[1]))
    imagined[:, -1] = 1.0
    columns = np.vstack([inner, imagined])
    truth = np.append(right.astype(np.float64), [1.0, 0.0])
    weights = np.zeros(columns.shape[1])
    ridge = np.full(columns.shape[1], PENALTY)
    ridge[-1] = 0.0
    for _ in range(STEPS):
        share = 1.0 / (1.0 + np.exp(-np.clip(columns @ weights, -30, 30)))
        slope = columns.T @ (truth - share) - ridge * weights
        bend = (columns * (share * (1 - share))[:, None]).T @ columns + np.diag(ridge)
        step = np.linalg.solve(bend + TINY * np.eye(len(weights)), slope)
        weights = weights + np.clip(step, -4.0, 4.0)
        if np.abs(step).max() < TINY:
            break
    scaled = weights[:-1] / spread
    bias = float(weights[-1] - (scaled * mean).sum())
    return Logistic(weights=tuple(round(float(w), 9) for w in scaled), bias=bias)
