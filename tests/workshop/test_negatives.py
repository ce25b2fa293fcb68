"""What is out of scope: where such texts come from, and that they do not repeat."""

import json
import random
from pathlib import Path

import pytest

from agent.core.errors import ConfigError
from agent.workshop.data import negatives as source
from agent.workshop.data.negatives import Negatives, negatives, nonsense
from agent.workshop.data.recipe import Other, Outside

OURS = ["set an alarm", "how about transfers", "it", "7"] * 50


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two other domains, one of which is partly ours."""
    for name, labels in (("bank", ("card", "cash")), ("home", ("lamp_on", "music"))):
        for part in ("train", "valid"):
            lines = [
                json.dumps({"text": f"{part} {label} {number}", "label": label})
                for label in labels
                for number in range(20)
            ]
            (tmp_path / f"{name}.{part}.jsonl").write_text("\n".join(lines))
    return tmp_path


def _others(**given: object) -> Outside:
    bank = Other(file="bank.{split}.jsonl")
    home = Other(file="home.{split}.jsonl", without=["lamp_*"])
    alone = {"foreign": False, "nonsense": False, "strangers": False}
    return Outside(others=[bank, home], **alone, **given)


def test_same_seed_same_texts() -> None:
    """All sources draw from the stream they are given, and from nothing else."""
    pytest.importorskip("faker", reason="the extra `workshop` is not installed")
    made = [negatives(Outside(), Path(), ["one of ours"], OURS) for _ in range(2)]
    one, same = ([e.text for e in n.epoch(random.Random(3))] for n in made)  # noqa: S311
    other = [e.text for e in made[0].epoch(random.Random(4))]  # noqa: S311
    assert one == same != other
    assert len(one) == 30  # the share of 200 that is the default
    assert made[0].some(20) == made[1].some(20) != made[0].some(20, seed=1)


def test_labels_that_are_ours_stay_out(folder: Path) -> None:
    """Texts of another domain whose label a glob names are not out of scope."""
    drawn = negatives(_others(label="none"), folder, [], OURS).some(300)
    assert {example.label for example in drawn} == {"none"}
    kinds = {example.text.split()[1] for example in drawn}
    assert kinds == {"card", "cash", "music"}


def test_validation_draws_from_other_files(folder: Path) -> None:
    """What fits the scores is not what taught: of other domains the other file."""
    texts = {}
    for part in ("train", "valid"):
        drawn = negatives(_others(), folder, [], OURS, part).some(200)
        texts[part] = {example.text for example in drawn}
        assert {text.split()[0] for text in texts[part]} == {part}
    assert not texts["train"] & texts["valid"]


def test_foreign_sentences_are_parted() -> None:
    """A sentence in another language teaches or validates, never both."""
    train, valid = source._foreign("train"), source._foreign("valid")
    assert not set(train) & set(valid)
    assert len(train) > 2 * len(valid) > 20


def test_made_up_sentences_are_parted() -> None:
    """So are those that Faker makes: other ones fit the scores than taught."""
    pytest.importorskip("faker", reason="the extra `workshop` is not installed")
    for locale in source.LOCALES:
        parts = [set(source._sentences(locale, part)) for part in ("train", "valid")]
        assert not parts[0] & parts[1]


def test_loan_words_do_not_make_a_language_ours() -> None:
    """Some words of ours stand among others that are not."""
    foreign = source._foreign("train")
    drawn = source._with_loans(foreign, OURS)
    chance = random.Random(0)  # noqa: S311
    theirs = {word for line in foreign for word in line.split()}
    loans = {"alarm", "about", "transfers"}
    for _ in range(300):
        words = drawn(chance).split()
        assert any(word in loans for word in words)
        assert any(word in theirs for word in words)


def test_fragments_are_no_text_of_ours() -> None:
    """A filler, a number or a sign asks for nothing, unless our data says it does."""
    drawn = source._fragments(OURS)
    chance = random.Random(0)  # noqa: S311
    texts = {drawn(chance) for _ in range(3000)}
    assert {"of", "12", "x", "?"} <= texts
    assert not texts & {"it", "7"}


def test_our_own_are_a_part() -> None:
    """Where our data has texts out of scope, they are some of what is drawn."""
    made = Negatives("oos", ["ours"], [lambda _: "theirs"], 1)
    texts = [example.text for example in made.some(1000)]
    assert 300 < texts.count("ours") < 500
    alone = Negatives("oos", ["ours"], [], 1)
    assert {example.text for example in alone.some(10)} == {"ours"}


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A domain that is not there is the operator's error."""
    with pytest.raises(ConfigError, match=r"bank\.train\.jsonl"):
        negatives(_others(), tmp_path, [], OURS)


def test_nonsense_is_never_empty() -> None:
    """Every text of nonsense has something in it."""
    chance = random.Random(0)  # noqa: S311
    assert all(nonsense(chance).strip() for _ in range(500))
