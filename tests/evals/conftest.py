"""A small vocabulary and model for measurements."""

import inspect
import json.decoder

import pytest
from transformers import LlamaForCausalLM

from prealign.models.create import LlamaShape, make_model
from prealign.text.scheme import GOOD_BAD
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary

TEXT = "def f(x):\n    return x + 1\n\n\nprint('caf\u00e9', f(2))\n" * 20


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return Vocabulary(train_text_tokenizer([inspect.getsource(json.decoder)], size=400), GOOD_BAD)


@pytest.fixture(scope="session")
def model(vocabulary: Vocabulary) -> LlamaForCausalLM:
    shape = LlamaShape(width=16, layers=1, heads=2, max_tokens=64)
    return make_model(shape, vocabulary.size, seed=0)
