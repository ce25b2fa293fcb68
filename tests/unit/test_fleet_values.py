"""Values in layers: later wins, and everybody knows where a value comes from."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.fleet.values import (
    Key,
    Sourced,
    Undefined,
    Values,
    changed,
    filled,
    flat,
    nested,
    overlay,
)

NAMES = st.sampled_from(["a", "b", "c"])
LEAVES = st.one_of(st.integers(), st.lists(st.integers(), max_size=2), st.text())
DOCUMENTS = st.dictionaries(
    NAMES,
    st.recursive(
        LEAVES, lambda inner: st.dictionaries(NAMES, inner, min_size=1), max_leaves=6
    ),
)


def stacked(*documents: dict[str, Any]) -> Values:
    """Return documents laid over each other; each is named by its number."""
    made: Values = {}
    for number, document in enumerate(documents):
        made = overlay(made, flat(document, str(number)))
    return made


def simply(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return the same by the obvious recursion."""
    made = dict(below)
    for name, value in above.items():
        under = made.get(name)
        both = isinstance(value, dict) and isinstance(under, dict)
        made[name] = simply(under or {}, value) if both else value
    return made


@given(DOCUMENTS)
def test_flat_and_back(document: dict[str, Any]) -> None:
    """A document held flat is the same document."""
    assert nested(flat(document, "x")) == document


@given(st.lists(DOCUMENTS, min_size=1, max_size=4))
def test_later_wins(documents: list[dict[str, Any]]) -> None:
    """Layers come out as tables merged key by key, lists and scalars replaced."""
    wanted: dict[str, Any] = {}
    for document in documents:
        wanted = simply(wanted, document)
    assert nested(stacked(*documents)) == wanted


@given(st.lists(DOCUMENTS, min_size=1, max_size=4))
def test_every_value_names_who_set_it(documents: list[dict[str, Any]]) -> None:
    """A value's origin is the last layer that set its key, and it set this value."""
    for key, leaf in stacked(*documents).items():
        setters = [n for n, d in enumerate(documents) if key in flat(d, "")]
        assert leaf.origin == str(setters[-1])
        assert flat(documents[setters[-1]], "")[key].value == leaf.value


@given(DOCUMENTS, DOCUMENTS)
def test_a_layer_that_says_nothing_changes_nothing(
    document: dict[str, Any], other: dict[str, Any]
) -> None:
    """Laying a document over itself changes no value, and an empty one nothing."""
    once = stacked(document, other)
    assert overlay(once, {}) == once
    assert nested(stacked(document, other, other)) == nested(once)


def test_an_empty_table_adds_nothing() -> None:
    """An empty table is there where nothing was, and replaces no other."""
    assert nested(stacked({"a": {}})) == {"a": {}}
    assert nested(stacked({"a": {"b": 1}}, {"a": {}})) == {"a": {"b": 1}}
    assert nested(stacked({"a": {}}, {"a": {"b": 1}})) == {"a": {"b": 1}}


def test_unset() -> None:
    """What is unset is as if nobody below had set it, and may be set anew."""
    below = flat({"a": {"b": 1, "c": 2}, "d": 3}, "below")
    assert nested(overlay(below, {}, [("a",)])) == {"d": 3}
    again = overlay(below, flat({"a": {"c": 9}}, "above"), [("a",)])
    assert nested(again) == {"a": {"c": 9}, "d": 3}


def test_changed() -> None:
    """Only keys that both set, to different values, are in conflict."""
    below, above = flat({"a": 1, "b": 2}, "x"), flat({"a": 1, "b": 3, "c": 4}, "y")
    assert [key for key, _, _ in changed(below, above)] == [("b",)]


def said(value: Any, **variables: Any) -> Sourced:
    """Return a value filled in."""
    document = {"key": value, "variables": variables}
    return filled(flat(document, "layer x"), {"device.id": "pi-1"})[("key",)]


@pytest.mark.parametrize(
    ("value", "variables", "wanted"),
    [
        ("plain", {}, "plain"),
        ("a/${x}/b", {"x": "y"}, "a/y/b"),
        ("${x}${x}", {"x": "y"}, "yy"),
        ("${x}", {"x": 0.5}, 0.5),
        ("${x}", {"x": True}, True),
        ("${x}", {"x": ["a", "b"]}, ["a", "b"]),
        ("is ${x}", {"x": True}, "is true"),
        ("${x}:${y}", {"x": "h", "y": 1883}, "h:1883"),
        (["${x}", "z"], {"x": "y"}, ["y", "z"]),
        ("${x}", {"x": "${y}/1", "y": "z"}, "z/1"),
        ("${device.id}", {}, "pi-1"),
        ("$${x}", {}, "${x}"),
        ("$${", {}, "${"),
        ("$5 and {x}", {"x": 1}, "$5 and {x}"),
        (7, {}, 7),
    ],
)
def test_variables(value: Any, variables: dict[str, Any], wanted: Any) -> None:
    """A variable is filled into strings; alone it keeps its type."""
    found = said(value, **variables).value
    assert found == wanted
    assert type(found) is type(wanted)


def test_variables_are_told() -> None:
    """A value says which variables it was made with, and who set those."""
    assert said("${x}", x="${y}", y="z").where == (
        "layer x (${x} from layer x, ${y} from layer x)"
    )
    assert said("plain").where == "layer x"


@pytest.mark.parametrize(
    ("value", "variables", "why"),
    [
        ("${siet}", {"site": "x"}, "${siet} is not defined, did you mean ${site}?"),
        ("${qqq}", {"site": "x"}, "${qqq} is not defined"),
        ("${}", {}, "${} is not defined"),
        ("${x}", {"x": "${y}", "y": "${x}"}, "${x} is made of itself"),
        ("a${x}", {"x": ["b"]}, "${x} is a list and must stand alone"),
    ],
)
def test_undefined(value: str, variables: dict[str, Any], why: str) -> None:
    """A variable that is nothing names the layer and the key that wanted it."""
    with pytest.raises(Undefined) as caught:
        said(value, **variables)
    assert str(caught.value) == f"layer x: key: {why}"


def laughs(deep: int, core: object) -> dict[Key, Sourced]:
    """Return variables of which each is the next one ten times, and one that asks."""
    made = {f"v{n}": f"${{v{n + 1}}}" * 10 for n in range(deep)} | {f"v{deep}": core}
    values = {("variables", n): Sourced(value, "base") for n, value in made.items()}
    return {**values, ("agent", "x"): Sourced("${v0}", "base")}


@pytest.mark.parametrize("core", ["x" * 50, ""])
def test_variables_have_a_bound(core: str) -> None:
    """A few lines cannot make gigabytes, nor take hours to make nothing."""
    if core:
        with pytest.raises(Undefined, match="more than 1048576 characters"):
            filled(laughs(15, core), {})
    else:
        assert filled(laughs(15, core), {})["agent", "x"].value == ""


def test_variables_are_not_endlessly_deep() -> None:
    """A chain of thousands is refused, not followed until Python gives up."""
    chain = {f"v{n}": f"${{v{n + 1}}}" for n in range(5000)} | {"v5000": "x"}
    values = {("variables", n): Sourced(value, "base") for n, value in chain.items()}
    with pytest.raises(Undefined, match="more than 20 variables"):
        filled({**values, ("agent", "x"): Sourced("${v0}", "base")}, {})
    few = {**values, ("agent", "x"): Sourced("${v4990}", "base")}
    assert filled(few, {})["agent", "x"].value == "x"


def test_a_list_in_a_list() -> None:
    """A list stands alone: no key takes a list in a list, and they could double."""
    values = {
        ("variables", "l"): Sourced(["a"], "base"),
        ("agent", "x"): Sourced(["${l}", "${l}"], "base"),
    }
    with pytest.raises(Undefined, match="is a list and must stand alone"):
        filled(values, {})


@given(st.dictionaries(st.tuples(NAMES, NAMES), st.integers()))
def test_without_references_nothing_is_filled(plain: dict[Key, int]) -> None:
    """Values without references come out as they are."""
    given_values = {key: Sourced(value, "x") for key, value in plain.items()}
    assert filled(given_values, {}) == given_values


def test_literal() -> None:
    """What stands in files that are no templates stays as it is."""
    assert filled(flat({"key": "${x}"}, "local"), {}, {"local"}) == {
        ("key",): Sourced("${x}", "local")
    }
