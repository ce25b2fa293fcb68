"""The ledger of claims: every broker that hears the same words holds the same true."""

import random

import pytest

from agent.broker.claims import CaseClaim, Ledger, decode, decode_told, encode


def claim(
    name: str, by: str, over: str | None = None, lease_s: float = 10
) -> CaseClaim:
    """Return a claim on the case k."""
    return CaseClaim(id=name, key="k", by=by, over=over, lease_s=lease_s)


def holder(ledger: Ledger) -> str:
    """Return which claim on the case stands."""
    return ledger.held["k"].claim.id


def test_the_first_stands() -> None:
    """The first claim stands, and the second does not, also after its time."""
    ledger = Ledger()
    assert ledger.heard(claim("a1", "a"), now=0)
    assert not ledger.heard(claim("b1", "b"), now=1)
    assert not ledger.heard(claim("b2", "b"), now=100)
    assert holder(ledger) == "a1"


def test_taking_over() -> None:
    """A claim over the one that stands takes over; a later one over it is too late."""
    ledger = Ledger()
    ledger.heard(claim("a1", "a"), now=0)
    assert ledger.heard(claim("b1", "b", over="a1"), now=11)
    assert not ledger.heard(claim("c1", "c", over="a1"), now=11)
    assert holder(ledger) == "b1"


def test_own_claims() -> None:
    """A broker takes over from itself: it lost what it heard."""
    ledger = Ledger()
    ledger.heard(claim("a1", "a"), now=0)
    assert ledger.heard(claim("a2", "a"), now=1)
    assert not ledger.heard(claim("b1", "b", over="a1"), now=1)


def test_end() -> None:
    """Only the claim that stands can end; then the next one is the first."""
    ledger = Ledger()
    ledger.heard(claim("a1", "a"), now=0)
    ledger.ended("k", "b1")
    ledger.ended("k", None)
    assert holder(ledger) == "a1"
    ledger.ended("k", "a1")
    assert ledger.heard(claim("b1", "b"), now=1)


def test_gone() -> None:
    """The claims of a broker that left may be taken over at once, no others."""
    ledger = Ledger()
    ledger.heard(claim("a1", "a"), now=0)
    assert ledger.left("b", now=1) == []
    assert ledger.held["k"].until == 10
    assert ledger.left("a", now=1) == ["k"]
    assert ledger.held["k"].until == 1


def test_forgets() -> None:
    """What ended an hour ago is forgotten, and nothing before."""
    ledger = Ledger()
    ledger.heard(claim("a1", "a"), now=0)
    ledger.forget(now=3600)
    assert ledger.held
    ledger.forget(now=3611)
    assert not ledger.held


def test_all_agree_whatever_their_clocks() -> None:
    """Ledgers that hear the same words in one order agree, at any time of hearing."""
    dice = random.Random(1)  # noqa: S311  the same each time
    for _ in range(200):
        ledgers = [Ledger() for _ in range(3)]
        known: list[str | None] = [None]
        for number in range(8):
            name = f"c{number}"
            word = claim(name, dice.choice("abc"), over=dice.choice(known))
            known.append(name)
            stands = {
                ledger.heard(word, now=dice.uniform(0, 100)) for ledger in ledgers
            }
            assert len(stands) == 1
        assert len({holder(ledger) for ledger in ledgers}) == 1


@pytest.mark.parametrize("body", [b"", b"x", b"{}", b'{"say": "claim"}', b"[]"])
def test_nonsense(body: bytes) -> None:
    """What is no word of ours is not heard."""
    assert decode(body) is None
    assert decode_told(body) is None


def test_wire() -> None:
    """A claim is heard as it was said, but for one of a megabyte: it is no claim."""
    word = claim("a1", "a", over="b1")
    assert decode(encode(word)) == word
    assert decode(encode(word) + b" " * 999_000) == word
    assert decode(encode(word) + b" " * 1_000_000) is None
