"""What every package speaks of: values, errors, clocks, files and the log."""
