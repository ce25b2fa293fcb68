"""Brokers, models, upstreams and agents to test and measure with: all of them real."""
