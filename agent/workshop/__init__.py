"""The workshop: from labelled JSON Lines to a finished, calibrated bundle.

Installed by the extra `workshop`, never on a device, and never imported by the daemon.
It may use everything below it; what a bundle answers is always asked of the code that
ships (`agent.inference`), so that calibration and scores are those of the product.
"""
