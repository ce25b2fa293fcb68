"""Who else of a group is there, and since when we may have missed what they said."""

from math import inf

from agent.broker.claims import Hello, Welcome
from agent.mqtt.message_ids import new_ulid, ulid_text

SKEW_S = 60.0  # how much clocks of brokers may differ


class Membership:
    """Keeps, for one broker, how well it hears the others; times are Unix seconds."""

    def __init__(self, name: str, since: float) -> None:
        """Take our name, and since when we know nothing of others."""
        self.others: set[str] = set()  # who is there
        self._name = name
        self._since = since
        self._heard_at = since  # when we last heard anybody, ourselves included
        self._lost_at = since  # when we last heard all who were there
        self._deaf: dict[str, float] = {}  # by name, see deaf_to
        self._hellos: dict[str, float] = {}  # by id of our hellos: since when they ask
        self._back: set[str] = set()  # ids of those that came back to us

    def deaf_to(self, name: str) -> float:
        """Return since when we may have missed what another said; inf: we hear all."""
        return self._deaf.get(name, self._since)

    def missed(self) -> list[str]:
        """Return who is there, and has not told us all it has to tell."""
        return sorted(name for name in self.others if self.deaf_to(name) < inf)

    def hello(self, to: str | None = None) -> Hello:
        """Make a hello: to all as we come, or to one that we may have missed."""
        since = self._lost_at if to is None else self.deaf_to(to)
        hello = Hello(
            id=ulid_text(new_ulid()), by=self._name, to=to, since=since - SKEW_S
        )
        self._hellos[hello.id] = since
        return hello

    def is_back(self, hello: Hello) -> bool:
        """Tell whether a hello of ours came back: before it we heard who is there."""
        return hello.id in self._back

    # -- what happens

    def heard(self, now: float) -> None:
        """Note that somebody said something."""
        self._heard_at = now

    def came_back(self, hello: Hello) -> None:
        """Note that a hello came back, if it is ours and of this connection."""
        if hello.id in self._hellos:
            self._back.add(hello.id)

    def welcomed(self, word: Welcome) -> bool:
        """Note that another told us all since a hello; False if that was too late."""
        if self._hellos[word.id] > self.deaf_to(word.by):
            return False
        self._deaf[word.by] = inf
        return True

    def is_to_us(self, word: Welcome) -> bool:
        """Tell whether a welcome answers a hello that we said by this connection."""
        return word.id in self._hellos

    def came(self, name: str) -> None:
        """Note that another is there."""
        self.others.add(name)

    def left(self, name: str) -> None:
        """Note that another is gone; what it had no time to tell, it may tell later."""
        self.others.discard(name)
        self._deaf[name] = min(self.deaf_to(name), self._heard_at)

    def lost(self, *, all_heard: bool) -> None:
        """Note that our connection ended; `all_heard`: whether we had been welcomed."""
        if all_heard:
            self._lost_at = self._heard_at
        for name, since in self._deaf.items():
            self._deaf[name] = min(since, self._heard_at)
        self._hellos.clear()
        self._back.clear()
        self.others.clear()
