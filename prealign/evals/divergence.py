"""Forward KL divergence from a frozen reference model: what was lost of what it knows.

Korbak et al. 2023 (https://arxiv.org/abs/2302.08582, section 3) estimate KL(GPT-3, model) on
samples of GPT-3. Here the reference is any model with the same vocabulary, a larger one trained on
other text, say. Unlike there, tags are context and their own probability is not charged.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from prealign.errors import ConfigError
from prealign.evals.capability import target_logp
from prealign.evals.stats import Estimate, ratio_interval
from prealign.guard.gate import Guard
from prealign.guard.policy import stay
from prealign.models.sample import Sampling, sample
from prealign.tokens.vocabulary import Vocabulary


def reference_samples(
    reference: PreTrainedModel,
    vocabulary: Vocabulary,
    *,
    count: int,
    max_text_tokens: int = 128,
    seed: int = 0,
) -> list[list[int]]:
    """Return texts as ids, drawn from the reference's own distribution over text.

    At temperature 1, from the whole distribution but for tags, which are denied; each with an end
    of text in front, and one behind if the reference ended it.
    """
    settings = Sampling(temperature=1.0, top_p=1.0, max_text_tokens=max_text_tokens)
    guard = Guard(stay(vocabulary))
    drawn = sample(
        reference,
        [[vocabulary.end_id]] * count,
        settings,
        seeds=[seed * 1_000_003 + i for i in range(count)],
        vocabulary=vocabulary,
        hook=guard.hook,
        gate=guard.gate,
    )
    end = [vocabulary.end_id]
    return [[*end, *one.ids, *(end if one.finished else [])] for one in drawn]


def forward_kl(
    reference: PreTrainedModel,
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    samples: Sequence[Sequence[int]],
    *,
    mode: str | None = None,
) -> Estimate:
    """Return KL(reference, model) in nats per byte of text, with a 95 % interval over samples.

    It is the mean of log p_reference - log p_model over samples of the reference, per byte; both
    are taken without the tags' share of the probability, so neither pays for what it may not write.

    Args:
        reference: Drew the samples.
        model: Has the same vocabulary.
        vocabulary: Of both.
        samples: From `reference_samples`.
        mode: The model reads this mode's tag in front of each line; None: it reads no tags.

    Raises:
        ConfigError: There are no samples, or none holds any text.
    """
    nats = []
    num_bytes = []
    tag = None if mode is None else vocabulary.open_id(mode)
    for ids in samples:
        of_reference = text_logp(reference, ids, None, vocabulary)
        of_model = text_logp(model, ids, tag, vocabulary)
        nats.append(float((of_reference - of_model).sum()))
        text = [token for token in ids if token < vocabulary.text_size]
        num_bytes.append(int(vocabulary.token_bytes[text].sum()) if text else 0)
    if not sum(num_bytes):
        raise ConfigError(f"forward KL: {len(samples)} samples hold no text; draw more or longer")
    return ratio_interval(nats, num_bytes)


def text_logp(
    model: PreTrainedModel, ids: Sequence[int], tag: int | None, vocabulary: Vocabulary
) -> np.ndarray:
    """Return log p of each id after the first, given those before it, among ids that are no tags.

    Args:
        model: Reads.
        ids: Text, with an end of text in front.
        tag: Stands in front of each line, and is not counted; None: no tags.
        vocabulary: Says which ids are tags and which end a line.
    """
    read, counted = list(ids[:1]), []
    for token in ids[1:]:
        ends_line = read[-1] == vocabulary.end_id or read[-1] in vocabulary.newline_ids
        if tag is not None and ends_line and token != vocabulary.end_id:
            read.append(tag)
        counted.append(len(read) - 1)
        read.append(token)
    logp_L = target_logp(model, torch.tensor([read]), allowed=_no_tags(vocabulary))
    chosen: np.ndarray = logp_L[0].double().cpu().numpy()[counted]
    return chosen


def _no_tags(vocabulary: Vocabulary) -> torch.Tensor:
    allowed_V = torch.ones(vocabulary.size, dtype=torch.bool)
    allowed_V[[*vocabulary.tag_ids.values(), vocabulary.inert_id]] = False
    return allowed_V
