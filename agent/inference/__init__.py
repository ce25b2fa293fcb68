"""From a text to a decision: bundles, their tiers, calibration and policy.

To add a model family, write a module with a frozen pydantic spec
(`family: Literal["<name>"]`) whose `load()` imports what is heavy and returns an object
with `predict`; then name the spec in `Manifest.tiers` (`agent/inference/manifest.py`).
"""
