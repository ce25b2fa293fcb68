"""The backlog: bounded, ordered, and nothing is forgotten with the broker."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.types import Message
from agent.mqtt.backlog import Admission, Backlog
from harness.tiny import arrived


def test_room() -> None:
    """While there is room everything is taken."""
    backlog = Backlog(max_messages=3, max_bytes=100)
    verdicts = [backlog.admit(arrived(b"x", qos=qos)) for qos in (0, 1, 1)]
    assert verdicts == [Admission.TAKEN] * 3
    assert (backlog.messages, backlog.bytes) == (3, 3)


@pytest.mark.parametrize(
    ("qos", "verdict"),
    [(0, Admission.DROPPED), (1, Admission.LEFT), (2, Admission.LEFT)],
)
@pytest.mark.parametrize("limits", [(1, 100), (100, 3)])
def test_no_room(qos: int, verdict: Admission, limits: tuple[int, int]) -> None:
    """Beyond either bound QoS 0 is dropped, and QoS 1 is left to the broker."""
    backlog = Backlog(*limits)
    backlog.admit(arrived(b"xx"))
    assert backlog.admit(arrived(b"xx", qos=qos, number=2)) is verdict
    assert (backlog.messages, backlog.bytes) == (1, 2)
    assert backlog.dropped + backlog.left == 1


def test_a_message_larger_than_the_bound() -> None:
    """A QoS 1 message that never fits is taken when nothing else is in hand."""
    backlog = Backlog(max_messages=10, max_bytes=10)
    assert backlog.admit(arrived(b"x" * 11)) is Admission.TAKEN
    assert backlog.admit(arrived(b"x", number=2)) is Admission.LEFT


def test_order_after_the_first_left() -> None:
    """Once one was left, those that follow by that connection are left too."""
    backlog = Backlog(max_messages=2, max_bytes=100)
    messages = [arrived(b"x", number=n) for n in range(5)]
    assert backlog.admit(messages[0]) is Admission.TAKEN
    assert backlog.admit(messages[1]) is Admission.TAKEN
    assert backlog.admit(messages[2]) is Admission.LEFT
    assert not backlog.done(messages[0])
    assert backlog.admit(messages[3]) is Admission.LEFT  # in spite of the room
    assert backlog.left == 2


def test_when_to_hang_up() -> None:
    """When the last message in hand is done, it is time to fetch what was left."""
    backlog = Backlog(max_messages=2, max_bytes=100)
    one, two, three = (arrived(b"x", number=n) for n in (1, 2, 3))
    for message in (one, two, three):
        backlog.admit(message)
    assert not backlog.done(one)
    assert backlog.done(two)
    assert backlog.admit(arrived(b"x", number=3, epoch=2)) is Admission.TAKEN


def test_the_oldest_in_hand() -> None:
    """It is known when the message arrived that is in hand for the longest."""
    backlog = Backlog(9, 100)
    first, second = (replace(arrived(number=n), arrived=n / 2) for n in (1, 2))
    assert backlog.oldest is None
    assert [backlog.admit(m) for m in (first, second)] == [Admission.TAKEN] * 2
    assert backlog.oldest == first.arrived
    backlog.done(first)
    assert backlog.oldest == second.arrived
    backlog.done(second)
    assert (backlog.oldest, backlog.ended) == (None, 2)


def test_nothing_left_nothing_to_fetch() -> None:
    """Without an overrun the end of the work is no reason to hang up."""
    backlog = Backlog(max_messages=2, max_bytes=100)
    message = arrived(b"x")
    backlog.admit(message)
    assert not backlog.done(message)


def test_a_qos0_flood_leaves_room_for_qos1() -> None:
    """QoS 0 may fill half of what is allowed, so that QoS 1 is never crowded out."""
    backlog = Backlog(max_messages=4, max_bytes=100)
    verdicts = [backlog.admit(arrived(b"x", qos=0, number=n)) for n in range(3)]
    assert verdicts == [Admission.TAKEN, Admission.TAKEN, Admission.DROPPED]
    assert backlog.admit(arrived(b"x", number=3)) is Admission.TAKEN


def test_left_behind_messages_of_an_older_connection() -> None:
    """What is in hand may be of an older connection than what was left."""
    backlog = Backlog(max_messages=1, max_bytes=100)
    old = arrived(b"x", epoch=1)
    backlog.admit(old)
    assert backlog.admit(arrived(b"x", epoch=2)) is Admission.LEFT
    assert backlog.done(old)


@given(
    st.lists(st.tuples(st.sampled_from([0, 1]), st.integers(0, 9), st.booleans())),
    st.integers(1, 4),
    st.integers(1, 12),
)
def test_bounds_hold(
    steps: list[tuple[int, int, bool]], max_messages: int, max_bytes: int
) -> None:
    """Whatever arrives and leaves, both bounds hold and every message is counted."""
    backlog = Backlog(max_messages, max_bytes)
    held = list[Message]()
    verdicts = []
    for number, (qos, size, leave) in enumerate(steps):
        if leave and held:
            backlog.done(held.pop(0))
            continue
        message = arrived(b"x" * size, qos=qos, number=number)
        verdicts.append(backlog.admit(message))
        if verdicts[-1] is Admission.TAKEN:
            held.append(message)
        assert backlog.messages == len(held) <= max_messages
        assert backlog.bytes == sum(len(m.payload) for m in held)
        assert backlog.bytes <= max_bytes or len(held) == 1
    assert backlog.dropped == verdicts.count(Admission.DROPPED)
    assert backlog.left == verdicts.count(Admission.LEFT)
