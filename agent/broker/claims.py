"""Who of a group works on which case: a ledger that all brokers keep alike.

Every broker hears the words of the group in one order, its own included, because they
come by one topic. So a claim needs no vote: whoever's claim comes first holds the case.
A claim names the one it takes over from, which has ended by time or with its broker,
and counts only if that is still the one that stands. Clocks decide when a broker
proposes, never what all brokers hold true.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from agent.protocol.cases import LATEST_MS, LONGEST_ANSWER, Reply, WireModel

FORGET_S = 3600.0  # how long after its end a claim still is in the ledger


class CaseClaim(WireModel):
    """`by` wants to answer a case, for so many seconds."""

    say: Literal["claim"] = "claim"
    id: str
    key: str
    by: str
    over: str | None = None  # the claim that stood before, as far as `by` knows
    lease_s: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class End(WireModel):
    """A claim ended without an answer."""

    say: Literal["end"] = "end"
    id: str
    key: str
    by: str


class Hello(WireModel):
    """`by` just came, and asks for claims, and for answers since then (Unix time).

    Said to one broker, it asks for the answers of that one only.
    """

    say: Literal["hello"] = "hello"
    id: str
    by: str
    to: str | None = None
    since: Annotated[float, Field(allow_inf_nan=False)]


class Welcome(WireModel):
    """`by` has told a newcomer all there was to tell."""

    say: Literal["welcome"] = "welcome"
    id: str  # of the hello
    by: str


class SharedAnswer(WireModel):
    """The answer to a case, for every broker of the group."""

    key: str
    by: str
    claim: str | None = None
    deadline_ms: Annotated[int, Field(ge=0, le=LATEST_MS)]
    reply: Reply


Word = CaseClaim | End | Hello | Welcome
_WORD: TypeAdapter[Any] = TypeAdapter(Annotated[Word, Field(discriminator="say")])


def encode(word: Word | SharedAnswer) -> bytes:
    """Return a word as JSON."""
    return word.model_dump_json().encode()


def decode(payload: bytes) -> Word | None:
    """Read what was said on the claim topic; None for what is no word of ours."""
    if len(payload) > LONGEST_ANSWER:
        return None
    try:
        word: Word = _WORD.validate_json(payload)
    except ValidationError:
        return None
    return word


def decode_told(payload: bytes) -> SharedAnswer | None:
    """Read what was said on the answer topic; None for what is no answer of ours."""
    if len(payload) > LONGEST_ANSWER:
        return None
    try:
        return SharedAnswer.model_validate_json(payload)
    except ValidationError:
        return None


@dataclass(slots=True)
class Held:
    """A claim that stands until another takes over; others may try after `until`."""

    claim: CaseClaim
    until: float


@dataclass(slots=True)
class Ledger:
    """All claims of a group, as one broker heard them; times are monotonic seconds."""

    held: dict[str, Held] = field(default_factory=dict)

    def heard(self, claim: CaseClaim, now: float) -> bool:
        """Take a claim in; tell whether it is the one that stands now."""
        standing = self.held.get(claim.key)
        stands = (
            standing is None
            or standing.claim.id in {claim.id, claim.over}
            # It lost what it heard, and knows best that it does not work on it.
            or standing.claim.by == claim.by
        )
        if stands:
            self.held[claim.key] = Held(claim, now + claim.lease_s)
        return stands

    def ended(self, key: str, claim_id: str | None) -> None:
        """Strike a claim out, if it is the one that stands."""
        standing = self.held.get(key)
        if standing and standing.claim.id == claim_id:
            del self.held[key]

    def left(self, name: str, now: float) -> list[str]:
        """Free the cases of a broker that is gone, and return their keys."""
        keys = [key for key, held in self.held.items() if held.claim.by == name]
        for key in keys:
            self.held[key].until = min(self.held[key].until, now)
        return keys

    def forget(self, now: float) -> None:
        """Strike out what ended so long ago that everybody knows."""
        old = [k for k, held in self.held.items() if held.until + FORGET_S < now]
        for key in old:
            del self.held[key]
