"""Raise language models to a character: tag, pretrain, guard, measure."""
