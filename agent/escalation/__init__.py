"""The way upstream and back: cases, privacy gate, budget, transports, final results."""
