"""Whose fault it is that a request is refused: its own, or that of who refuses all.

The answer to another request is the only proof that the endpoint takes any.
"""

import math
from collections import OrderedDict

MOST = 1000  # cases that are remembered


class Blame:
    """What was refused since when, and when anything was answered; monotonic times."""

    def __init__(self) -> None:
        """Nothing is known."""
        self._refused: OrderedDict[str, float] = OrderedDict()  # since when, by case
        self._in_a_row = 0
        self._answered_at = -math.inf

    def answered(self, case: str, now: float) -> None:
        """Say that a case was answered."""
        self._refused.pop(case, None)
        self._in_a_row = 0
        self._answered_at = now

    def refused(self, case: str, now: float) -> bool:
        """Say that a case was refused; True: it is to blame for it itself.

        Others were answered since it was refused first.
        """
        self._in_a_row += 1
        since = self._refused.setdefault(case, now)
        if len(self._refused) > MOST:
            self._refused.popitem(last=False)
        if self._answered_at <= since:
            return False
        del self._refused[case]
        return True

    @property
    def is_general(self) -> bool:
        """Whether nothing is answered between one refusal and the next."""
        return self._in_a_row > 1
