"""One training loop on torch, its batches and its checkpoints."""
