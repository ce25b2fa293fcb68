"""What a broker says in its CONNACK that it can, and what its limits cost us."""

from dataclasses import dataclass

from paho.mqtt.properties import Properties

DEFAULT_RECEIVE_MAXIMUM = 65_535  # MQTT 5, 3.2.2.3.3
# Reason codes of a CONNACK that refuses our last will for how it is to be sent.
RETAIN_NOT_SUPPORTED, QOS_NOT_SUPPORTED = 0x9A, 0x9B


@dataclass(frozen=True, slots=True)
class Abilities:
    """The abilities of a broker; those of one that says nothing are all there are."""

    qos: int = 1
    """The highest at which it takes our messages; we need 1 at most."""
    retain: bool = True
    """Whether it keeps the last message of a topic."""
    identifiers: bool = True
    """Whether it names the subscriptions that a message matched."""
    wildcards: bool = True
    shared: bool = True
    window: int = DEFAULT_RECEIVE_MAXIMUM
    """How many messages of ours may wait for their acknowledgement."""
    keepalive_s: int | None = None
    """The keep alive that counts, where it is not ours."""
    packet_bytes: int | None = None
    client_id: str | None = None
    """The one that it gave us, where it did not take ours."""

    def refusal_of(self, topic_filter: str) -> str:
        """Return why it would refuse a filter, if it would.

        To send one all the same is a protocol error, and it hangs up (3.2.2.3).
        """
        if not self.shared and topic_filter.startswith("$share/"):
            return "the broker has no shared subscriptions"
        if not self.wildcards and {"+", "#"} & set(topic_filter):
            return "the broker takes no wildcards"
        return ""

    def costs(self) -> dict[str, str]:
        """Return what its limits cost us, by limit, for people."""
        costs = {
            "qos": "results and cases are sent once, and may be lost" * (self.qos < 1),
            "retain": "who comes later does not see who is here" * (not self.retain),
            "wildcards": "topics with + or # are refused" * (not self.wildcards),
            "shared": "topics with $share are refused" * (not self.shared),
            "client_id": self.client_id and f"the session is that of {self.client_id}",
        }
        return {limit: cost for limit, cost in costs.items() if cost}


def abilities_of(properties: Properties | None) -> Abilities:
    """Read the properties of a CONNACK; None: there are none."""

    def said(name: str, default: int) -> int:
        value: int = getattr(properties, name, default)
        return value

    return Abilities(
        qos=min(1, said("MaximumQoS", 1)),
        retain=bool(said("RetainAvailable", 1)),
        identifiers=bool(said("SubscriptionIdentifierAvailable", 1)),
        wildcards=bool(said("WildcardSubscriptionAvailable", 1)),
        shared=bool(said("SharedSubscriptionAvailable", 1)),
        window=said("ReceiveMaximum", DEFAULT_RECEIVE_MAXIMUM),
        keepalive_s=getattr(properties, "ServerKeepAlive", None),
        packet_bytes=getattr(properties, "MaximumPacketSize", None),
        client_id=getattr(properties, "AssignedClientIdentifier", None),
    )
