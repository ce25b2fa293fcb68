"""How much is in hand, and what to do when a broker sends more than we asked for.

MQTT 5 brokers respect our Receive Maximum, MQTT 3.1.1 brokers have a window of their
own, and some (Mosquitto 2.0.11) overrun it. Beyond the bound a QoS 0 message is dropped
and counted. A QoS 1 message is left unacknowledged: the broker still has it. Once what
we hold is done, we hang up, and the broker sends what was left again, in order.
"""

from dataclasses import dataclass, field
from enum import Enum, auto

from agent.core.types import Message

QOS0_SHARE = 0.5  # of the bounds: a flood of QoS 0 must not crowd out QoS 1


class Admission(Enum):
    """What becomes of an arriving message."""

    TAKEN = auto()
    DROPPED = auto()
    LEFT = auto()


@dataclass(slots=True)
class Backlog:
    """Counts messages and payload bytes between arrival and the last word on them."""

    max_messages: int
    max_bytes: int
    messages: int = 0
    bytes: int = 0
    dropped: int = 0  # QoS 0, since the start
    left: int = 0  # QoS 1, since the start
    owed: int = 0  # QoS 1 messages in hand
    overrun_epoch: int = 0  # the connection on which QoS 1 is left to the broker
    waiting: bool = False  # something left has not been fetched yet
    ended: int = 0  # since the start
    arrivals: dict[int, float] = field(default_factory=dict)  # of those in hand, by seq

    def admit(self, message: Message) -> Admission:
        """Take an arriving message in, if there is room.

        After the first message left, all that follow by that connection are left too,
        so that they keep their order when they come again.
        """
        full = self._full(message, 1.0)
        if message.qos == 0:
            if self._full(message, QOS0_SHARE):
                self.dropped += 1
                return Admission.DROPPED
        elif (full and self.messages > 0) or message.epoch == self.overrun_epoch:
            self.overrun_epoch = message.epoch
            self.waiting = True
            self.left += 1
            return Admission.LEFT
        self.messages += 1
        self.arrivals[message.seq] = message.arrived
        self.bytes += len(message.payload)
        self.owed += message.qos > 0
        return Admission.TAKEN

    @property
    def oldest(self) -> float | None:
        """When the oldest message in hand arrived, as its `arrived` says it."""
        return next(iter(self.arrivals.values()), None)

    def _full(self, message: Message, share: float) -> bool:
        """Tell whether a message would exceed this share of the bounds."""
        if self.messages + 1 > max(1, share * self.max_messages):
            return True
        return self.bytes + len(message.payload) > share * self.max_bytes

    def done(self, message: Message) -> bool:
        """Let a message go; True when it is time to hang up for those left."""
        self.messages -= 1
        self.ended += 1
        del self.arrivals[message.seq]
        self.bytes -= len(message.payload)
        self.owed -= message.qos > 0
        if self.waiting and self.owed == 0:
            self.waiting = False
            return True
        return False
