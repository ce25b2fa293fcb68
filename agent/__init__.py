"""Understand text messages on the device, escalate only what stays unclear."""

__version__ = "0.1.0"
