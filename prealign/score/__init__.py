"""Segmenters and scorers, and annotate: parallel, resumable, nothing dropped silently."""
