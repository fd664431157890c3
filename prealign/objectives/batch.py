"""What an objective is given and what it returns.

Objectives work on the log-probability of each target, not on logits: the loop computes it once,
fused, and no objective depends on the vocabulary's size.

Shape letters:  B = rows,  L = tokens in a row.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from torch import Tensor


class TokenBatch(NamedTuple):
    """Rows of packed tokens. All but `ids_BL` and `document_BL` speak of the *target* token."""

    ids_BL: Tensor
    """int64: inputs."""
    targets_BL: Tensor
    """int64: the next token at each place."""
    text_BL: Tensor
    """bool: the target is text; False: a tag, the end of a document, or padding."""
    tag_BL: Tensor
    """bool: the target is a tag."""
    end_BL: Tensor
    """bool: the target is the end-of-text token. Padding is neither text, tag nor end."""
    mode_BL: Tensor
    """uint8: 1 + the index of the target's mode in the scheme; 0: no mode."""
    score_BL: Tensor
    """float32: the score of the span the target belongs to; 0 where `scored_BL` is False."""
    scored_BL: Tensor
    """bool: the target's span has a score."""
    document_BL: Tensor
    """int32: which document of the row each *input* belongs to, counted from 0."""
    value_BL: Tensor | None = None
    """float32: what the value head says at the input before each target, where the objective asks
    for one (`wants_value`)."""


class Mean(NamedTuple):
    """A mean that can be put together from the parts of a batch."""

    total: Tensor
    """Scalar, without gradient: the sum."""
    weight: Tensor
    """Scalar: how many things were summed; 0 means that there is no mean, not that it is 0."""


class Loss(NamedTuple):
    """A scalar to minimise and the scalars worth logging.

    A step may be cut into parts (accumulation, several processes). The loop weighs the value of
    each part by its weight, so that the step's loss is the mean over all that counted in it.
    """

    value: Tensor
    """Scalar to minimise, a mean; 0 with a zero gradient where nothing counts."""
    weight: Tensor
    """Scalar: how much the mean is over, such as the number of targets or of pairs."""
    metrics: Mapping[str, Mean]
    """What else is logged, by name; every part of a batch gives the same names."""


class Objective(Protocol):
    """A frozen dataclass that is called; its fields are its settings.

    One with a true class attribute `wants_value` is given `value_BL`: the loop then trains a value
    head, a linear map from the last hidden state to one number, which starts at 0.
    """

    def __call__(self, logp_BL: Tensor, batch: TokenBatch) -> Loss:
        """Return the loss.

        Args:
            logp_BL: Natural log-probability of each target, float32, in nats.
            batch: What the targets are.
        """
