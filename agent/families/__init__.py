"""Model families: how a tier of a bundle is loaded and asked.

To add one: a module with a frozen pydantic spec (`family: Literal["<name>"]`) whose
`load()` imports what is heavy and returns an object with `predict`; then name the spec
in `Manifest.tiers` (`agent/bundle.py`).
"""
