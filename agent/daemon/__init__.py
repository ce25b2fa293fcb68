"""The daemon: everything wired together, supervised, and steered while it runs."""
