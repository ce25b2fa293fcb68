"""What shows how a version on probation does: each sign comes from its owner."""

import time
from types import SimpleNamespace
from typing import Any, cast

from agent.daemon.conditions import Sources, signs
from agent.fleet.probation import DROPS


def sources(**having: Any) -> Sources:
    """Return sources of a device that is well, but for some."""
    pipeline = SimpleNamespace(name="home", bundle=SimpleNamespace(calibrated=True))
    inner = SimpleNamespace(input=SimpleNamespace(expect_s=None))
    parts = SimpleNamespace(
        pipelines=[pipeline], config=SimpleNamespace(pipelines={"home": inner})
    )
    well = {
        "parts": parts,
        "link": SimpleNamespace(connected=True, refused=frozenset(), dropped=0),
        "counters": SimpleNamespace(
            model_failed=0, unread=lambda _number: [], heard={}
        ),
        "backlog": None,
        "alerts": SimpleNamespace(active=[]),
        "rejected_topics": SimpleNamespace(topics=frozenset()),
        "escalation": None,
        "since": time.perf_counter(),
    }
    return Sources(**cast("Any", well | having))


def test_well() -> None:
    """Nothing shows where nothing is wrong."""
    found = signs(sources(), hangs=False)
    assert (found.connected, found.broken, found.dropped) == (True, "", 0)
    assert not (found.refused | found.unread | found.stalled | found.alerts)


def test_connections_that_the_broker_ended() -> None:
    """They are counted by the link, and are no fault of a version that comes now."""
    link = SimpleNamespace(connected=False, refused=frozenset("x"), dropped=DROPS)
    found = signs(sources(link=link), hangs=False)
    assert (found.connected, found.dropped, found.refused) == (False, DROPS, {"x"})
    assert found.before


def test_models() -> None:
    """A model that hangs or failed is told."""
    assert signs(sources(), hangs=True).broken == "a model hangs"
    counters = SimpleNamespace(model_failed=1, unread=lambda _number: [], heard={})
    assert signs(sources(counters=counters), hangs=False).broken == "a model failed"
