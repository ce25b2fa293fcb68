"""What the daemon counts and reports of itself: counters, alerts, metrics, the host."""
