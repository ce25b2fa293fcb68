"""How many of the answers that are paid for are of use, and why others are not."""

from collections import Counter, deque
from collections.abc import Mapping

HOUR_S = 3600.0
SLICE_S = 60.0  # answers of a minute are counted together
LEAST = 3  # fewer unusable answers in an hour are no pattern
NEARLY_ALL = 0.9


class AnswerQuality:
    """Counts of this process, and of the last hour."""

    def __init__(self) -> None:
        """Nothing was answered yet."""
        self.unusable: Counter[str] = Counter()  # by reason
        self._slices: deque[tuple[float, Counter[str]]] = deque()  # "" is usable

    def note(self, reason: str, now: float) -> None:
        """Count an answer; `reason` empty: it is of use. `now` in monotonic seconds."""
        if reason:
            self.unusable[reason] += 1
        if not self._slices or now - self._slices[-1][0] >= SLICE_S:
            self._slices.append((now, Counter()))
        self._slices[-1][1][reason] += 1
        self._forget(now)

    def complaint(self, now: float) -> str:
        """Say what is wrong with nearly all answers of an hour; empty: nothing."""
        self._forget(now)
        total: Counter[str] = Counter()
        for _, counts in self._slices:
            total.update(counts)
        useless = {reason: n for reason, n in total.most_common() if reason}
        number, of = sum(useless.values()), total.total()
        if number < LEAST or number < NEARLY_ALL * of:
            return ""
        return (
            f"{number} of {of} answers of the last hour are of no use: {told(useless)}"
        )

    def _forget(self, now: float) -> None:
        while self._slices and now - self._slices[0][0] > HOUR_S:
            self._slices.popleft()


def told(reasons: Mapping[str, int]) -> str:
    """Return reasons and their numbers as text."""
    return ", ".join(f"{reason} {number}" for reason, number in reasons.items())
