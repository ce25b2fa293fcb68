"""Whose fault a refusal is: another's answer is the only proof."""

from agent.core import blame as module
from agent.core.blame import Blame


def test_nobody_is_to_blame_alone() -> None:
    """Who is refused for ever is not to blame while nobody is answered."""
    blame = Blame()
    assert not any(blame.refused("a", now) for now in range(5))
    assert blame.is_general


def test_others_are_answered() -> None:
    """Once another is answered, who is refused after that is to blame."""
    blame = Blame()
    assert not blame.refused("a", 1.0)
    assert not blame.is_general
    blame.answered("b", 2.0)
    assert blame.refused("a", 3.0)


def test_an_answer_of_before_proves_nothing() -> None:
    """An endpoint that answered once may be broken by now."""
    blame = Blame()
    blame.answered("b", 1.0)
    assert not blame.refused("a", 2.0)
    assert not blame.refused("c", 3.0)
    assert blame.is_general


def test_its_own_answer_clears_it() -> None:
    """Who is answered in the end begins anew."""
    blame = Blame()
    assert not blame.refused("a", 1.0)
    blame.answered("a", 2.0)
    assert not blame.refused("a", 3.0)


def test_bounded() -> None:
    """Not more is remembered than so many cases."""
    blame = Blame()
    for number in range(module.MOST + 10):
        blame.refused(str(number), 1.0)
    assert len(blame._refused) == module.MOST
