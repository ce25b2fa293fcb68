"""The linear tier: learns in seconds what wording gives away, and ships as int8."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra `workshop` is not installed")
pytest.importorskip("faker", reason="the extra `workshop` is not installed")

from agent.inference.linear import LinearSpec
from agent.workshop.data.material import Material, read_material
from agent.workshop.data.recipe import LinearTier, Recipe
from agent.workshop.training.linear_training import train_linear, write_linear

PLAN = LinearTier(bits=10, epochs=6)


@pytest.fixture(scope="module")
def material(
    data: Path, recipe: Callable[..., Recipe], encoder_package: Path
) -> Material:
    """Return the tiny data set, with texts out of scope."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(encoder_package)
        return read_material(recipe(outside={"share": 0.3}), data)


def _train(material: Material) -> tuple[LinearSpec, dict[str, np.ndarray]]:
    return train_linear(
        PLAN, material.train, material.known, material.negatives, seed=1
    )


def test_learns_and_ships_as_int8(material: Material, tmp_path: Path) -> None:
    """What LinearSpec loads of the file knows labels, entities and the outside."""
    spec, arrays = _train(material)
    assert arrays["weights"].dtype == np.int8
    write_linear(tmp_path, arrays)
    known = material.known
    model = spec.load(tmp_path, list(known.labels), list(known.entities), threads=1)
    guesses = model.predict([example.text for example in material.valid])
    rights = [
        guess.label == example.label
        for guess, example in zip(guesses, material.valid, strict=True)
    ]
    assert sum(rights) / len(rights) > 0.95
    assert np.mean([guess.outside for guess in guesses]) < 0.2
    strangers = model.predict([example.text for example in material.outside])
    assert np.mean([guess.outside for guess in strangers]) > 0.5
    # All texts have an entity, and it knows that it cannot name them.
    assert all(guess.entities_evidence[0] < 0 for guess in guesses)


def test_lines_without_spans_say_nothing_of_entities(material: Material) -> None:
    """They change what it knows of labels only; alone, nothing at all of entities."""
    silent = [one.model_copy(update={"spans": None}) for one in material.train]
    _, arrays = _train(replace(material, train=silent))
    assert np.isfinite(arrays["bias"]).all()
    assert not arrays["weights"][:, -1].any()


def test_same_seed_same_weights(material: Material) -> None:
    """Two trainings make the same file."""
    (_, one), (_, other) = _train(material), _train(material)
    assert all(np.array_equal(one[name], other[name]) for name in one)
