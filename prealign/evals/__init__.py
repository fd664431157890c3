"""Measurements: samples, held-out loss, leakage, and their intervals."""
