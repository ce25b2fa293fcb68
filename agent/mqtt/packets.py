"""How large a PUBLISH packet is (MQTT 5, 3.3): what a broker's limit is about."""

LARGEST_PACKET = 268_435_455  # bytes (MQTT 5, 2.1.4), where the broker says no less
# With smaller packets a dead letter with a long id could not be published at all.
LEAST_PACKET = 2048


def remaining_bytes(topic: bytes, properties: int, payload: int) -> int:
    """Return the remaining length of a QoS 1 PUBLISH: topic, identifier, the rest.

    `properties` are bytes of the block with its length: 0 with MQTT 3.1.1.
    """
    return 2 + len(topic) + 2 + properties + payload


def packet_bytes(remaining: int) -> int:
    """Return the bytes of a whole packet with this remaining length."""
    return 1 + length_bytes(remaining) + remaining


def length_bytes(value: int) -> int:
    """Return how many bytes a variable byte integer takes (MQTT 5, 1.5.5)."""
    return max(1, -(-value.bit_length() // 7))
