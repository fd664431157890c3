"""Worlds with known truth: text made by a grammar, so that badness is exact."""
