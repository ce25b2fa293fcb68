"""From exported graphs to a finished bundle: probes, card and manifest."""
