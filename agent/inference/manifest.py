"""The manifest of a bundle, and the check of its files against it.

`manifest.json` lists every file with its sha256; a bundle that differs is refused.
A bundle may use a trunk: an encoder in a folder beside its own, with its own manifest.
Then the bundle's manifest lists the trunk's files as well, as `../<trunk>/<file>`.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from agent.core.errors import BundleError
from agent.core.explain import first
from agent.core.files import exists, read_bytes
from agent.core.types import Form
from agent.inference.calibration import FrozenModel, fingerprint
from agent.inference.decide import Forms
from agent.inference.encoder import EncoderSpec, runtime
from agent.inference.linear import LinearSpec

MANIFEST = "manifest.json"
CARD = "README.md"
ABOVE = "../"
BORROWED = re.compile(r"\.\./([A-Za-z0-9_-]+)/([A-Za-z0-9_-][A-Za-z0-9_.-]*)")


class File(FrozenModel):
    """A file that a manifest lists; `bytes` is its size."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class BundleSection(FrozenModel):
    """The fields that the manifests of a bundle and of a trunk share."""

    name: str
    version: str
    description: str
    language: str
    licence: str
    sources: list[str]
    created: str
    scores: dict[str, float]
    files: dict[str, File]

    @property
    def id(self) -> str:
        """Name and version as results carry them: `home@1.0.0`."""
        return f"{self.name}@{self.version}"


OLD_FORMS = tuple(form for form in Form if form not in {Form.NEGATED, Form.SEVERAL})


class FormTable(FrozenModel):
    """Which forms of utterance a bundle's labels allow."""

    default: list[Form] = Field(default=list(OLD_FORMS), min_length=1)
    """All labels; of bundles made before forms were taught, more than of others."""
    labels: dict[str, list[Form]] = Field(default_factory=dict)
    """What some allow besides: questions by nature, and what is said as a report."""

    def allowing(self) -> Forms:
        """Return what may be answered by this table."""
        default = frozenset(self.default)
        labels = {label: default | set(more) for label, more in self.labels.items()}
        return Forms(default, labels)


Family = Annotated[LinearSpec | EncoderSpec, Field(discriminator="family")]


class Manifest(BundleSection):
    """`manifest.json` of a bundle."""

    format: Literal[2]
    labels: list[str]
    entities: list[str]
    patterns: list[str] = Field(default_factory=list)
    """Entities that checked patterns find beside the model (inference/patterns.py)."""
    forms: FormTable = FormTable()
    """Which forms of utterance may be answered, unless a pipeline says otherwise."""
    tiers: list[Family] = Field(min_length=1)

    def fingerprint(self) -> str:
        """Return the sha256 of all that decides answers, hexadecimal.

        That is models, tokenizer, labels, entities, patterns and the runtime. A
        calibration holds for one fingerprint.
        """
        names = {name for tier in self.tiers for name in tier.files}
        what = {name: self.files[name].sha256 for name in names & self.files.keys()}
        for tier in self.tiers:
            if isinstance(tier, EncoderSpec) and tier.prior_weight:
                # The old word stays: calibrations of older bundles have this hash.
                what[f"{tier.model} heeds"] = f"{tier.prior_weight:g}"
        return fingerprint(
            what, self.labels, [*self.entities, "", *self.patterns], runtime()
        )


class TrunkManifest(BundleSection):
    """`manifest.json` of a trunk, which is no bundle itself."""

    trunk: Literal[1]
    """The format."""


M = TypeVar("M", Manifest, TrunkManifest)


def read_manifest(folder: Path) -> Manifest:
    """Read and validate a bundle's manifest; raises BundleError."""
    return _read(folder, Manifest, "bundle")


def read_trunk(folder: Path) -> TrunkManifest:
    """Read and validate a trunk's manifest; raises BundleError."""
    return _read(folder, TrunkManifest, "trunk")


def _read(folder: Path, kind: type[M], what: str) -> M:
    path = folder / MANIFEST
    if not exists(path):
        raise BundleError(f"{path}: no such {what}")
    try:
        return kind.model_validate_json(read_bytes(path, BundleError))
    except ValidationError as error:
        raise BundleError(f"{path}: no manifest of a {what}: {first(error)}") from error


def verify(folder: Path, manifest: Manifest) -> None:
    """Compare every file with the manifest; raises BundleError if one differs.

    An unlisted file is refused as well, because a graph may load weights from it. The
    files of the bundle's trunk are checked in the same way.
    """
    own = {n: file for n, file in manifest.files.items() if not n.startswith(ABOVE)}
    borrowed: dict[str, dict[str, File]] = {}
    for name in manifest.files.keys() - own.keys():
        place = BORROWED.fullmatch(name)
        if place is None:
            raise _not_ours(folder / name)
        borrowed.setdefault(place[1], {})[place[2]] = manifest.files[name]
    _compare(folder, own)
    for trunk, files in borrowed.items():
        _verify_trunk(folder, manifest.id, trunk, files)


def _verify_trunk(
    folder: Path, bundle: str, trunk: str, wanted: Mapping[str, File]
) -> None:
    """Compare the trunk beside a bundle with its own manifest and the bundle's."""
    place = (folder / ABOVE).resolve() / trunk
    try:
        beside = read_trunk(place)
    except BundleError as error:
        raise BundleError(f"{bundle} stands on a trunk: {error}") from error
    for name in sorted(beside.files.keys() - {CARD} | wanted.keys()):
        ours, theirs = wanted.get(name), beside.files.get(name)
        if ours is None or theirs is None or ours.sha256 != theirs.sha256:
            raise BundleError(
                f"{folder}: {bundle} was not made for the trunk {beside.id} that lies "
                f"beside it ({name} differs); install bundle and trunk together"
            )
    _compare(place, beside.files)


def _compare(folder: Path, files: Mapping[str, File]) -> None:
    unlisted = sorted(_files(folder) - {MANIFEST, *files})
    if unlisted:
        raise BundleError(f"{folder / unlisted[0]}: not listed in the manifest")
    for name, expected in files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise _not_ours(path)
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            why = error.strerror or error
            raise BundleError(
                f"{path}: {why}; the manifest lists it, so the bundle is incomplete"
            ) from error
        if digest != expected.sha256:
            raise BundleError(
                f"{path}: sha256 is {digest[:12]}..., the manifest says "
                f"{expected.sha256[:12]}...; the file is damaged or was replaced"
            )


def _not_ours(path: Path) -> BundleError:
    return BundleError(
        f"{path}: a manifest may only list files of its bundle, and of a trunk in a "
        "folder beside it"
    )


def _files(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in paths}
