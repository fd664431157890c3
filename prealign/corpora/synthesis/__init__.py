"""Texts that a language model writes for a corpus: steps, and the runner that asks for them."""
