"""Errors in our words: which key, what would be right, and nothing that is secret."""

from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import core_schema

from agent.config.agent_file import AgentFile
from agent.config.section import Name, Place, Section
from agent.core.explain import WORDS, explain, first
from agent.core.words import nearest, printable, quoted


class Inner(Section):
    """A table in a table."""

    number: int = Field(default=1, ge=1, le=9)
    share: float = Field(default=0.5, gt=0, lt=1)


class File(Section):
    """Every kind of key."""

    name: Name = "x"
    text: str = Field(default="abc", min_length=2, max_length=4)
    flag: bool = False
    place: Place | None = None
    kind: Literal["a", "b"] = "a"
    many: list[str] = Field(default=["x"], min_length=1)
    inner: Inner = Inner()
    named: dict[str, Inner] = Field(default={})
    listed: list[Inner] = Field(default=[])


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"name": "a b"}, "name: may have letters, digits, _ and - only, and not be "),
        ({"text": 5}, "text: must be a text in quotes (it is 5)"),
        ({"text": "a"}, "text: needs at least 2 characters (it is 'a')"),
        ({"text": "abcde"}, "text: may have at most 4 characters (it is 'abcde')"),
        ({"flag": "yes"}, "flag: must be true or false (it is 'yes')"),
        ({"kind": "c"}, "kind: must be 'a' or 'b' (it is 'c')"),
        ({"many": "x"}, "many: must be a list, as [...] (it is 'x')"),
        ({"many": []}, "many: needs at least 1"),
        ({"inner": 5}, "inner: must be a table (it is 5)"),
        ({"inner": {"number": 0}}, "inner.number: must be at least 1 (it is 0)"),
        ({"inner": {"number": 10}}, "inner.number: must be at most 9 (it is 10)"),
        ({"inner": {"number": 1.5}}, "inner.number: must be a whole number (it is 1.5"),
        ({"inner": {"share": 0}}, "inner.share: must be more than 0 (it is 0)"),
        ({"inner": {"share": 1}}, "inner.share: must be less than 1 (it is 1)"),
        ({"inner": {"share": True}}, "inner.share: must be a number (it is true)"),
        ({"inner": {"numbr": 1}}, "inner.numbr: unknown key, did you mean 'number'?"),
        ({"named": {"x": {"shar": 1}}}, "named.x.shar: unknown key, did you mean 'sh"),
        ({"listed": [{"shar": 1}]}, "listed.0.shar: unknown key, did you mean 'share'"),
        ({"named": [1]}, "named: must be a table"),
        ({"na\x1b[2Jme": 1}, "na\N{REPLACEMENT CHARACTER}[2Jme: unknown key, did you"),
        ({"inner": {"number": 2**80}}, "at most 9 (it is a number of 81 bits)"),
        ({"inner": {"number": 7**9000}}, "(it is a number of 25267 bits)"),
    ],
)
def test_what_is_wrong(document: dict[str, Any], said: str) -> None:
    """Each kind of error is one line in our words, with the value where it helps."""
    with pytest.raises(ValidationError) as caught:
        File.model_validate(document)
    [line] = explain(File, caught.value)
    assert said in line
    assert "Input should" not in line


def test_words_are_of_errors_that_exist() -> None:
    """Each type of error that has words of ours is one that pydantic raises."""
    assert set(WORDS) <= set(get_args(core_schema.ErrorType))


class Secrets(Section):
    """Keys that hold secrets, or may by mistake."""

    url: Literal["x"] = "x"
    password_file: int = 1
    api_key: int = 1
    token: int = 1
    options: dict[str, int] = Field(default={})
    note: int = 1
    table: int = 1


@pytest.mark.parametrize(
    "document",
    [
        {"url": "mqtt://user:hunter2@host"},
        {"password_file": "hunter2"},
        {"api_key": "hunter2"},
        {"token": "hunter2"},
        {"options": {"anything": "hunter2"}},
        {"note": "https://user:hunter2@host/v1"},
        {"table": {"anything": "hunter2"}},
        {"note": ["hunter2"]},
        {"api_kye": "hunter2"},
    ],
)
def test_no_secret_is_quoted(document: dict[str, Any]) -> None:
    """What may be a secret is not shown: errors end in journals and screenshots."""
    with pytest.raises(ValidationError) as caught:
        Secrets.model_validate(document)
    [line] = explain(Secrets, caught.value)
    assert "hunter2" not in line
    assert next(iter(document)) in line


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("upstream.max_output_tokens", True),
        ("upstream.budget.tokens_per_day", True),
        ("mqtt.username", True),
        ("mqtt.keepalive_s", True),
        ("mqtt.password_file", False),
        ("fleet.public_key_files.0", False),
        ("models.0.options.api_key", False),
        ("models.0.api_base", False),
    ],
)
def test_what_is_shown(key: str, *, shown: bool) -> None:
    """Keys that only sound like a secret keep their values."""
    assert (quoted(key, 5) == " (it is 5)") is shown
    assert bool(quoted(key, 5)) is shown


def test_long_values_are_cut() -> None:
    """A value of any length is shown by its beginning."""
    assert len(quoted("note", "x" * 100_000)) < 120


def test_the_first_in_json_without_its_value() -> None:
    """Of what others sent the value is never told: it may be personal."""

    class Line(BaseModel):
        text: str
        label: int = 0

    with pytest.raises(ValidationError) as caught:
        Line.model_validate_json('{"label": "alice@example.org"}')
    assert first(caught.value) == "text: must be given"
    with pytest.raises(ValidationError) as caught:
        Line.model_validate_json("[]")
    assert first(caught.value) == "must be an object"


def test_unknown_table_of_the_device() -> None:
    """The nearest key is looked for where the unknown one stands, unions included."""
    for document, near in (
        ({"upstream": {"transport": "http", "modle": "x"}}, "model"),
        ({"fleet": {"topics": "x", "public_key_files": []}}, "topic"),
    ):
        with pytest.raises(ValidationError) as caught:
            AgentFile.model_validate(document, context=Path())
        assert f"did you mean {near!r}?" in "\n".join(explain(AgentFile, caught.value))


def test_words() -> None:
    """What others wrote is shown without its commands to the terminal."""
    assert (
        printable("a\x1b[2J\nb").replace("\N{REPLACEMENT CHARACTER}", "?") == "a?[2J?b"
    )
    assert nearest("lable", ["label", "text"]) == ", did you mean 'label'?"
    assert nearest("zzz", ["label"]) == ""
