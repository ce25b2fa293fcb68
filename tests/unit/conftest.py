"""What unit tests share: tiny real bundles, opened once."""

import pytest
from hypothesis import settings

from agent.inference.bundle import Bundle, open_bundle
from harness.tiny import write_bundle

settings.register_profile("unit", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("unit")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return the tiny bundle, opened."""
    return open_bundle(write_bundle(tmp_path_factory.mktemp("models") / "tiny"), 1)


@pytest.fixture(scope="session")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return the tiny bundle with a linear tier before its encoder, opened."""
    folder = tmp_path_factory.mktemp("models") / "cascade"
    return open_bundle(write_bundle(folder, cascade=True), 1)
