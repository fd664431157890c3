"""A small vocabulary and a small model."""

import pytest

from prealign.models.create import LlamaShape, make_model
from prealign.text.scheme import GOOD_BAD
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary

TEXT = "def half(x):\n    return x / 2\n\n\nprint(half(4))\n"


@pytest.fixture(scope="session")
def vocabulary():
    return Vocabulary(train_text_tokenizer([TEXT], size=262), GOOD_BAD)


@pytest.fixture
def model(vocabulary):
    """Weights far from zero, so that the distributions are far from flat."""
    shape = LlamaShape(width=32, layers=2, heads=4, kv_heads=2, max_tokens=96)
    model = make_model(shape, vocabulary.size, seed=0)
    for weight in model.parameters():
        weight.data *= 4
    return model
