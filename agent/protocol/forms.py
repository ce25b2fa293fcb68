"""In which form an endpoint takes a request, found out by what it complains of.

Endpoints differ: some take no JSON Schema, no system role, no temperature, or name the
longest answer in another way. Who complains is asked in a plainer form, at once, and
the form that works is kept.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal

from agent.protocol.cases import Request
from agent.protocol.prompt import messages, response_format


class PromptPart(StrEnum):
    """A part of a request that an endpoint may not take."""

    FORMAT = "response_format"
    SYSTEM = "system"
    TEMPERATURE = "temperature"
    LIMIT = "max_tokens"
    ANY = "any"  # it does not say which


@dataclass(frozen=True, slots=True)
class PromptForm:
    """Which parameters a request has."""

    format: Literal["json_schema", "json_object", "text"] = "json_schema"
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: bool = True
    system: bool = True

    def messages(self, request: Request) -> list[dict[str, str]]:
        """Return the chat messages; without a system role its words come first."""
        chat = messages(request)
        if self.system:
            return chat
        first = f"{chat[0]['content']}\n{chat[1]['content']}"
        return [{"role": "user", "content": first}, *chat[2:]]

    def parameters(self, request: Request, max_output_tokens: int) -> dict[str, Any]:
        """Return what stands beside the messages, but for the temperature."""
        parameters: dict[str, Any] = {self.limit: max_output_tokens}
        if self.format == "json_schema":
            parameters["response_format"] = response_format(request)
        elif self.format == "json_object":
            parameters["response_format"] = {"type": "json_object"}
        return parameters


def plainer(form: PromptForm, part: PromptPart) -> PromptForm | None:
    """Return the next form without a part; None: there is none."""
    match part:
        case PromptPart.FORMAT:
            down: dict[str, Any] = {"json_schema": "json_object", "json_object": "text"}
            other = replace(form, format=down.get(form.format, "text"))
        case PromptPart.SYSTEM:
            other = replace(form, system=False)
        case PromptPart.TEMPERATURE:
            other = replace(form, temperature=False)
        case PromptPart.LIMIT:
            other = replace(form, limit="max_completion_tokens")
        case PromptPart.ANY:
            other = replace(form, format="text", temperature=False, system=False)
    return None if other == form else other


class PromptForms:
    """Owns which form an endpoint takes, by pipeline: schemas are a pipeline's."""

    def __init__(self, first: PromptForm = PromptForm()) -> None:
        """`first` is tried first."""
        self._proven: defaultdict[str, PromptForm] = defaultdict(lambda: first)
        self._now: dict[str, PromptForm] = {}  # that are tried, and not proven yet
        self._refused: defaultdict[str, set[PromptForm]] = defaultdict(
            set
        )  # since then

    def now(self, pipeline: str) -> PromptForm:
        """Return the form for the next request of a pipeline."""
        return self._now.get(pipeline, self._proven[pipeline])

    def worked(self, pipeline: str, form: PromptForm) -> None:
        """Say that a request in this form was taken."""
        self._proven[pipeline] = form
        self._now.pop(pipeline, None)
        self._refused[pipeline].clear()

    def refused(self, pipeline: str, form: PromptForm, part: PromptPart) -> bool:
        """Say that a form was refused; True: another is worth a try at once.

        Each is tried at once only one time until one works. Where none does, the next
        request is in the next form, so that an endpoint that changes is understood.
        """
        if self.now(pipeline) != form:
            return True  # another request has learned it meanwhile
        refused = self._refused[pipeline]
        refused.add(form)
        other = plainer(form, part)
        self._now[pipeline] = other or self._proven[pipeline]
        if other is None or other in refused:
            if part is PromptPart.ANY:
                self._now.pop(pipeline)
            return False
        return True
