"""Hardening: attacks on activations while a model is trained, and what they leave of a flaw."""
