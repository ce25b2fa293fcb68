"""What the tests of the broker share; its stage is that of the end-to-end tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "e2e"))
