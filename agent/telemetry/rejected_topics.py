"""Results that the broker refuses: counted, and an alert until it takes them again."""

from agent.core.errors import Refused
from agent.telemetry.alerts import Alerts
from agent.telemetry.counters import Counters

RESULT_REFUSED = "result_refused"


class RejectedTopics:
    """Owns the topics on which the broker takes no results, or no dead letters."""

    def __init__(self, alerts: Alerts, counters: Counters) -> None:
        """Nothing is refused yet."""
        self._alerts = alerts
        self._counters = counters
        self._refused: dict[str, str] = {}  # by topic, what the broker said

    @property
    def topics(self) -> frozenset[str]:
        """On which topics nothing got through since something was refused."""
        return frozenset(self._refused)

    def refused(self, error: Refused) -> None:
        """Note that the broker refused something."""
        self._counters.refused += 1
        self._refused[error.topic] = str(error)
        self._tell()

    def took(self, topic: str) -> None:
        """Note that the broker took something on a topic."""
        if self._refused.pop(topic, None):
            self._tell()

    def _tell(self) -> None:
        reasons = [f"{topic}: {why}" for topic, why in sorted(self._refused.items())]
        if reasons:
            self._alerts.activate(RESULT_REFUSED, "; ".join(reasons))
        else:
            self._alerts.clear(RESULT_REFUSED)
