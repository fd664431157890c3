"""Policies over mode tags: deny lists, the mask, the commit gate, canaries."""
