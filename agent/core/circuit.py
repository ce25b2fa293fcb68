"""A circuit breaker: whether a failing endpoint may be called again.

A call ends in an answer, in a failure, or in neither, if we gave it up or could not pay
for it. Only an answer closes the circuit, and only a failure opens it. A failing
endpoint is called at most twice a minute. Times are monotonic seconds that the caller
passes.
"""

import math
from collections import deque

FIRST_FAILURES = 2  # in a row, of an endpoint that has not answered lately
FAILURES = 5  # in a row, of one that has, or that could not be reached
LATELY_S = 60.0
MINUTE_S = 60.0  # in which two calls may fail
REST_S = 30.0  # between two calls that fail, at least
UNREACHED_S = 15.0  # the same, if no connection could be made


class Circuit:
    """Owns the record of the calls to one endpoint."""

    def __init__(self) -> None:
        """Begin without any call."""
        self._failed: deque[float] = deque(maxlen=2)  # the last two, when
        self._failures = self._reached = 0  # in a row; those of them that came there
        self._allowed = FIRST_FAILURES
        self._last_reached = False
        self._answered_at = -math.inf
        self._quiet_until = -math.inf

    @property
    def is_failing(self) -> bool:
        """Whether it failed too often: then calls go one at a time, and seldom."""
        return self._reached >= self._allowed or self._failures >= FAILURES

    def answered(self, now: float) -> None:
        """Record an answer."""
        self._failed.clear()
        self._failures = self._reached = 0
        self._answered_at = now

    def failed(self, now: float, *, reached: bool, pause_s: float = 0.0) -> None:
        """Record a failure; `reached` says whether a connection was made.

        `pause_s` is how long the endpoint asks not to be called.
        """
        if not self._failures:
            lately = now - self._answered_at <= LATELY_S
            self._allowed = FAILURES if lately else FIRST_FAILURES
        self._failures += 1
        self._reached += reached
        self._last_reached = reached
        self._failed.append(now)
        self._quiet_until = max(self._quiet_until, now + pause_s)

    def next_at(self) -> float:
        """Return when the next call may be made; a past time means now."""
        if not self.is_failing:
            return self._quiet_until
        rest = self._failed[-1] + UNREACHED_S
        if self._last_reached:
            rest = max(self._failed[-1] + REST_S, self._failed[0] + MINUTE_S)
        return max(rest, self._quiet_until)

    def room(self) -> float:
        """Return how many calls may be made at once, from `next_at` on.

        An endpoint that has never answered gets no more calls at once than may fail.
        """
        if self.is_failing:
            return 1
        if self._answered_at == -math.inf:
            return max(1, FIRST_FAILURES - self._failures)
        return math.inf
