"""How good the answers are: scores, certificates and the fitting of calibrations."""
