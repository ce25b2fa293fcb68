"""What is inside the package, as CycloneDX JSON.

    sbom.py DEB SITE >FILE

SITE is the folder of libraries that the package DEB was made of. The same package gives
the same bytes.
"""

import hashlib
import os
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

OURS = "slm-agent"
LICENSES = LicenseFactory()


def sha256(path: Path) -> HashType:
    """Return the hash of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)


def licensed(found: Distribution) -> str | None:
    """Return what a library says of its licence, in one line."""
    said = found.metadata
    word = said.get("License-Expression") or said.get("License") or ""
    classes = [
        each.rpartition(" :: ")[2]
        for each in said.get_all("Classifier", [])
        if each.startswith("License ::")
    ]
    first = word.strip().splitlines()[:1]
    return first[0][:100] if first else " AND ".join(classes) or None


def library(found: Distribution) -> Component:
    """Return the component of a library."""
    name = found.metadata["Name"]
    said = licensed(found)
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=found.version,
        purl=PackageURL("pypi", None, name.lower(), found.version),
        bom_ref=f"pypi:{name}",
        licenses=[LICENSES.make_from_string(said)] if said else [],
    )


def models(folder: Path) -> Iterator[Component]:
    """Yield the bundles of models; a manifest lists every file of one by its hash."""
    for manifest in sorted(folder.glob("*/manifest.json")):
        yield Component(
            type=ComponentType.MACHINE_LEARNING_MODEL,
            name=manifest.parent.name,
            bom_ref=f"model:{manifest.parent.name}",
            hashes=[sha256(manifest)],
            description="the hash is that of manifest.json",
        )


def bill(deb: Path, site: Path) -> Bom:
    """Return the bill of materials."""
    name, version, arch = deb.stem.split("_")
    root = Component(
        type=ComponentType.APPLICATION,
        name=name,
        version=version,
        purl=PackageURL("deb", None, name, version, {"arch": arch}),
        bom_ref="package",
        hashes=[sha256(deb)],
    )
    inside = [
        *(
            library(each)
            for each in distributions(path=[str(site)])
            if each.name != OURS
        ),
        *models(site / "agent" / "models"),
    ]
    bom = Bom(components=inside)
    bom.metadata.component = root
    bom.metadata.timestamp = datetime.fromtimestamp(
        int(os.environ["SOURCE_DATE_EPOCH"]), UTC
    )
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, root.hashes[0].content)
    bom.register_dependency(root, inside)
    return bom


def main() -> None:
    """Print the bill."""
    deb, site = map(Path, sys.argv[1:])
    sys.stdout.write(JsonV1Dot6(bill(deb, site)).output_as_string(indent=1) + "\n")


if __name__ == "__main__":
    main()
