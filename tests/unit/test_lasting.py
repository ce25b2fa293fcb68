"""What lasts from one daemon of a process to the next."""

from agent.config import AgentFile, Config
from agent.lasting import Lasting
from agent.types import Reason, Unresolved


async def test_decisions_outlive_a_reload_of_the_same() -> None:
    """The same configuration finds its decisions again; another begins with none."""
    lasting = Lasting()
    one, other = (Config(AgentFile(), {}, digest * 64) for digest in "01")
    decided = lasting.decided_with(one)
    decided["home", "m-1", 1] = Unresolved(Reason.LOW_CONFIDENCE)
    assert lasting.decided_with(one) is decided
    assert not lasting.decided_with(other)
    assert not lasting.decided_with(one)
