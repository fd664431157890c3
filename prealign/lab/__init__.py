"""Toy models that explain the rest: each file says what was predicted, and measures it."""
