"""What a broker knows of how well it hears the others."""

from math import inf

from agent.broker.claims import Hello, Welcome
from agent.broker.membership import SKEW_S, Membership

START = 1000.0


def introduced(*names: str, now: float = START + 100) -> Membership:
    """Return the hearing of "me", welcomed by others."""
    hearing = Membership("me", START)
    hello = hearing.hello()
    hearing.came_back(hello)
    for name in names:
        hearing.came(name)
        assert hearing.welcomed(Welcome(id=hello.id, by=name))
    hearing.heard(now)
    return hearing


def asked_since(hello: Hello) -> float:
    """Return since when a hello asks, as the clock of who says it has it."""
    return hello.since + SKEW_S


def test_a_start() -> None:
    """At first all is asked for, and who is there is missed until it welcomes us."""
    hearing = Membership("me", START)
    hello = hearing.hello()
    hearing.came("a")
    assert asked_since(hello) == START
    assert not hearing.is_back(hello)
    assert hearing.missed() == ["a"]
    assert hearing.welcomed(Welcome(id=hello.id, by="a"))
    assert hearing.missed() == []
    assert hearing.deaf_to("a") == inf


def test_the_hello_of_a_namesake() -> None:
    """A hello under our name that we did not say is none of ours coming back."""
    hearing = Membership("me", START)
    strange = Hello(id="strange", by="me", since=START)
    hearing.came_back(strange)
    assert not hearing.is_back(strange)


def test_a_loss() -> None:
    """After a loss only what was said since we last heard anything is asked for."""
    hearing = introduced("a")
    old = hearing.hello()
    hearing.lost(all_heard=True)
    assert hearing.others == set()
    assert not hearing.is_to_us(Welcome(id=old.id, by="a"))
    hello = hearing.hello()
    assert asked_since(hello) == START + 100
    assert hearing.welcomed(Welcome(id=hello.id, by="a"))


def test_a_loss_before_we_were_welcomed() -> None:
    """An introduction that fails does not hide what was missed before it."""
    hearing = introduced("a")
    hearing.lost(all_heard=True)
    hearing.hello()
    hearing.heard(START + 200)
    hearing.lost(all_heard=False)
    assert asked_since(hearing.hello()) == START + 100


def test_who_was_away_longer() -> None:
    """Who was away as we came is asked by itself, for all that we may have missed."""
    hearing = introduced("a", "b")
    hearing.lost(all_heard=True)
    hello = hearing.hello()
    hearing.came("a")
    assert hearing.welcomed(Welcome(id=hello.id, by="a"))
    hearing.heard(START + 300)
    hearing.lost(all_heard=True)  # b never came
    again = hearing.hello()
    assert asked_since(again) == START + 300
    hearing.came("b")
    assert not hearing.welcomed(Welcome(id=again.id, by="b"))
    assert hearing.missed() == ["b"]
    own = hearing.hello(to="b")
    assert (own.to, asked_since(own)) == ("b", START + 100)
    assert hearing.welcomed(Welcome(id=own.id, by="b"))
    assert hearing.missed() == []


def test_who_leaves() -> None:
    """Who goes may not have told all: it is asked when it is back."""
    hearing = introduced("a")
    hearing.left("a")
    hearing.heard(START + 500)
    hearing.came("a")
    assert hearing.missed() == ["a"]
    assert asked_since(hearing.hello(to="a")) == START + 100


def test_who_never_was_there() -> None:
    """Of a stranger we may have missed all since we know nothing of others."""
    hearing = introduced()
    hearing.came("stranger")
    assert asked_since(hearing.hello(to="stranger")) == START
