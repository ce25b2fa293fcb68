"""What a broker knows of how well it hears the others."""

from math import inf

from agent.broker.claims import Hello, Welcome
from agent.broker.membership import SKEW_S, Membership

START = 1000.0


def introduced(*names: str, now: float = START + 100) -> Membership:
    """Return the hearing of "me", welcomed by others."""
    membership = Membership("me", START)
    hello = membership.hello()
    membership.came_back(hello)
    for name in names:
        membership.came(name)
        assert membership.welcomed(Welcome(id=hello.id, by=name))
    membership.heard(now)
    return membership


def asked_since(hello: Hello) -> float:
    """Return since when a hello asks, as the clock of who says it has it."""
    return hello.since + SKEW_S


def test_a_start() -> None:
    """At first all is asked for, and who is there is missed until it welcomes us."""
    membership = Membership("me", START)
    hello = membership.hello()
    membership.came("a")
    assert asked_since(hello) == START
    assert not membership.is_back(hello)
    assert membership.missed() == ["a"]
    assert membership.welcomed(Welcome(id=hello.id, by="a"))
    assert membership.missed() == []
    assert membership.deaf_to("a") == inf


def test_the_hello_of_a_namesake() -> None:
    """A hello under our name that we did not say is none of ours coming back."""
    membership = Membership("me", START)
    strange = Hello(id="strange", by="me", since=START)
    membership.came_back(strange)
    assert not membership.is_back(strange)


def test_a_loss() -> None:
    """After a loss only what was said since we last heard anything is asked for."""
    membership = introduced("a")
    old = membership.hello()
    membership.lost(all_heard=True)
    assert membership.others == set()
    assert not membership.is_to_us(Welcome(id=old.id, by="a"))
    hello = membership.hello()
    assert asked_since(hello) == START + 100
    assert membership.welcomed(Welcome(id=hello.id, by="a"))


def test_a_loss_before_we_were_welcomed() -> None:
    """An introduction that fails does not hide what was missed before it."""
    membership = introduced("a")
    membership.lost(all_heard=True)
    membership.hello()
    membership.heard(START + 200)
    membership.lost(all_heard=False)
    assert asked_since(membership.hello()) == START + 100


def test_who_was_away_longer() -> None:
    """Who was away as we came is asked by itself, for all that we may have missed."""
    membership = introduced("a", "b")
    membership.lost(all_heard=True)
    hello = membership.hello()
    membership.came("a")
    assert membership.welcomed(Welcome(id=hello.id, by="a"))
    membership.heard(START + 300)
    membership.lost(all_heard=True)  # b never came
    again = membership.hello()
    assert asked_since(again) == START + 300
    membership.came("b")
    assert not membership.welcomed(Welcome(id=again.id, by="b"))
    assert membership.missed() == ["b"]
    own = membership.hello(to="b")
    assert (own.to, asked_since(own)) == ("b", START + 100)
    assert membership.welcomed(Welcome(id=own.id, by="b"))
    assert membership.missed() == []


def test_who_leaves() -> None:
    """Who goes may not have told all: it is asked when it is back."""
    membership = introduced("a")
    membership.left("a")
    membership.heard(START + 500)
    membership.came("a")
    assert membership.missed() == ["a"]
    assert asked_since(membership.hello(to="a")) == START + 100


def test_who_never_was_there() -> None:
    """Of a stranger we may have missed all since we know nothing of others."""
    membership = introduced()
    membership.came("stranger")
    assert asked_since(membership.hello(to="stranger")) == START
