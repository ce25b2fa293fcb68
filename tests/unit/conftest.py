"""What unit tests share: one tiny real bundle, opened once."""

import pytest
from hypothesis import settings
from tiny import write_bundle

from agent.bundle import Bundle, open_bundle

settings.register_profile("unit", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("unit")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return the tiny bundle, opened."""
    return open_bundle(write_bundle(tmp_path_factory.mktemp("models") / "tiny"), 1)
