"""Losses: tensors in, `Loss` out. They know no document, no model and no loop."""
