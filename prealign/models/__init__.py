"""Create, load, save and sample causal language models."""
