"""The circuit breaker's memory: who fails is asked seldom, and only an answer helps."""

import math
import random

import pytest

from agent.core.circuit import FAILURES, MINUTE_S, REST_S, UNREACHED_S, Circuit


def failing(times: int, at: float = 0.0, *, reached: bool = True) -> Circuit:
    """Return a circuit after so many failures in a row, at one time."""
    circuit = Circuit()
    for _ in range(times):
        circuit.failed(at, reached=reached)
    return circuit


def test_a_first_failure_is_forgiven() -> None:
    """One failure keeps nobody from being asked; of a stranger a second one does."""
    assert not failing(1).is_failing
    assert failing(1).next_at() <= 0
    assert failing(2).is_failing
    assert failing(2).next_at() == MINUTE_S


def test_who_answered_lately_is_trusted() -> None:
    """Who answered a moment ago may fail a few times; who did long ago may not."""
    circuit = Circuit()
    circuit.answered(0.0)
    for _ in range(FAILURES - 1):
        circuit.failed(1.0, reached=True)
    assert not circuit.is_failing
    circuit.failed(1.0, reached=True)
    assert circuit.is_failing
    circuit.answered(2.0)
    assert not circuit.is_failing
    for _ in range(2):
        circuit.failed(1000.0, reached=True)
    assert circuit.is_failing


def test_nobody_there_is_tried_sooner() -> None:
    """Where no connection is made nobody is disturbed: more tries, shorter rests."""
    assert not failing(FAILURES - 1, reached=False).is_failing
    assert failing(FAILURES, reached=False).next_at() == UNREACHED_S


def test_a_pause_that_was_asked_for() -> None:
    """Who asks to be left alone is, after one failure and after many; no less long."""
    circuit = Circuit()
    circuit.failed(0.0, reached=True, pause_s=100.0)
    assert not circuit.is_failing
    assert circuit.next_at() == 100.0
    circuit.failed(0.0, reached=True, pause_s=1.0)
    assert circuit.next_at() == 100.0


def test_how_many_at_once() -> None:
    """A stranger is asked no more at once than may fail; who fails, one at a time."""
    circuit = Circuit()
    assert circuit.room() == 2
    circuit.failed(0.0, reached=True)
    assert circuit.room() == 1
    circuit.failed(0.0, reached=True)
    assert circuit.room() == 1
    circuit.answered(0.0)
    assert circuit.room() == math.inf


@pytest.mark.parametrize("seed", range(20))
def test_two_calls_a_minute(seed: int) -> None:
    """Who never answers gets at most two calls in any minute, whatever the hurry."""
    dice = random.Random(seed)  # noqa: S311
    circuit, now, calls = Circuit(), 0.0, []
    for _ in range(200):
        now = max(now, circuit.next_at()) + dice.choice([0.0, 0.1, dice.random() * 90])
        calls.append(now)
        circuit.failed(now, reached=True, pause_s=dice.choice([0.0, dice.random()]))
    for first, third in zip(calls, calls[2:], strict=False):
        assert third - first >= MINUTE_S - 1e-6


def test_it_is_asked_on() -> None:
    """Who fails for hours is still tried every half minute, so that it may heal."""
    circuit = failing(50)
    assert circuit.next_at() == MINUTE_S
    circuit.failed(MINUTE_S, reached=True)
    assert circuit.next_at() == MINUTE_S + REST_S
