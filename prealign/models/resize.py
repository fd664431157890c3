"""Give an existing model the rows that a vocabulary adds to its tokenizer."""

from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prealign.errors import DataError
from prealign.tokens.vocabulary import Vocabulary

Model = TypeVar("Model", bound=PreTrainedModel)
NOISE_STD = 0.01


@torch.no_grad()
def add_tags(model: Model, vocabulary: Vocabulary, *, seed: int) -> Model:
    """Return the model, grown in place to one row per id of the vocabulary.

    The new rows are the mean of the old ones plus normal noise of standard deviation 0.01, in
    the embedding and, if it has its own weights, in the output layer (Korbak et al. 2023,
    https://arxiv.org/abs/2302.08582): so an untrained tag is no likelier than an average token.
    Weights of text ids stay bit for bit. Rows that the model has beyond its tokenizer (some are
    padded to a round number) were never trained; they are replaced, or left out.

    Args:
        model: With the tokenizer's ids as its first rows.
        vocabulary: The model's own text tokenizer with a scheme.
        seed: Of the noise; torch's global random stream is left alone.

    Raises:
        DataError: The model has fewer rows than the tokenizer has ids.
    """
    text_size = vocabulary.text_size
    weights = vocabulary_weights(model)
    rows = weights[0].shape[0]
    if rows < text_size:
        raise DataError(
            f"the model has {rows} rows, the text tokenizer {text_size} ids; "
            "use the tokenizer the model was trained with"
        )
    olds = [weight_VD[:text_size].clone() for weight_VD in weights]
    with torch.random.fork_rng(devices=[]):  # resizing draws rows that are overwritten below
        model.resize_token_embeddings(vocabulary.size, mean_resizing=False)
    stream = torch.Generator().manual_seed(seed)
    for weight_VD, old_VD in zip(vocabulary_weights(model), olds, strict=True):
        weight_VD[:text_size] = old_VD
        weight_VD[text_size:] = _near_mean(old_VD, vocabulary.size - text_size, stream)
    return model


def vocabulary_weights(model: Any) -> list[Tensor]:
    """Return the embedding's weights and, if it has its own, the output layer's."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or head.weight is embedding.weight:
        return [embedding.weight]
    return [embedding.weight, head.weight]


def _near_mean(old_VD: Tensor, count: int, stream: torch.Generator) -> Tensor:
    noise = torch.randn(count, old_VD.shape[1], generator=stream) * NOISE_STD
    return (old_VD.float().mean(dim=0) + noise.to(old_VD.device)).to(old_VD.dtype)
