"""Whether somebody who fails may be asked again: the memory of a circuit breaker.

A call ends in an answer, in a failure, or in neither, as where we gave it up or could
not pay for it. Neither changes nothing: only an answer closes the circuit, and only
what failed opens it. Who fails is asked at most twice a minute. Times are monotonic
seconds, and the caller's.
"""

import math
from collections import deque

FIRST_FAILURES = 2  # in a row, of somebody who has not answered lately
FAILURES = 5  # in a row, of somebody who has, or who could not be reached
LATELY_S = 60.0
MINUTE_S = 60.0  # in which two calls may fail
REST_S = 30.0  # between two calls that fail, at least
UNREACHED_S = 15.0  # the same, where no connection was made: it disturbs nobody


class Circuit:
    """What is known of the calls to one endpoint."""

    def __init__(self) -> None:
        """Nothing is known."""
        self._failed: deque[float] = deque(maxlen=2)  # the last two, when
        self._failures = self._reached = 0  # in a row; those of them that came there
        self._allowed = FIRST_FAILURES
        self._last_reached = False
        self._answered_at = -math.inf
        self._quiet_until = -math.inf

    @property
    def is_failing(self) -> bool:
        """Whether it failed too often: it is asked one call at a time, now and then."""
        return self._reached >= self._allowed or self._failures >= FAILURES

    def answered(self, now: float) -> None:
        """Say that it answered."""
        self._failed.clear()
        self._failures = self._reached = 0
        self._answered_at = now

    def failed(self, now: float, *, reached: bool, pause_s: float = 0.0) -> None:
        """Say that a call failed. `pause_s`: how long it asks to be left alone."""
        if not self._failures:
            lately = now - self._answered_at <= LATELY_S
            self._allowed = FAILURES if lately else FIRST_FAILURES
        self._failures += 1
        self._reached += reached
        self._last_reached = reached
        self._failed.append(now)
        self._quiet_until = max(self._quiet_until, now + pause_s)

    def next_at(self) -> float:
        """Return when it may be asked next; a time gone by: now."""
        if not self.is_failing:
            return self._quiet_until
        rest = self._failed[-1] + UNREACHED_S
        if self._last_reached:
            rest = max(self._failed[-1] + REST_S, self._failed[0] + MINUTE_S)
        return max(rest, self._quiet_until)

    def room(self) -> float:
        """Return how many calls may be made at once, from `next_at` on.

        Who has never answered is asked no more at once than may fail.
        """
        if self.is_failing:
            return 1
        if self._answered_at == -math.inf:
            return max(1, FIRST_FAILURES - self._failures)
        return math.inf
