"""Asking a language model: what it answered, what is kept of it, and servers that answer."""
