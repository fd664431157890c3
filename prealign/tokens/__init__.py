"""Text tokenizer, tag ids, documents to ids with mode and score per token, packing."""
