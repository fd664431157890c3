"""Forward KL divergence from a frozen reference model: what was lost of what it knows.

Korbak et al. 2023 (https://arxiv.org/abs/2302.08582, section 3) estimate KL(GPT-3, model) on
samples of GPT-3. Here the reference is any model with the same vocabulary, a larger one trained on
other text, say. Unlike there, tags are context and their own probability is not charged.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from transformers import PreTrainedModel

from prealign.errors import ConfigError
from prealign.evals.capability import denied_ids
from prealign.evals.stats import Estimate, ratio_interval
from prealign.guard.gate import Guard
from prealign.guard.policy import stay
from prealign.guard.table import table_of
from prealign.models.sample import Sampling, evaluating, sample
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
    guard = Guard(table_of(vocabulary, stay(vocabulary.scheme)))
    drawn = sample(
        reference,
        [[vocabulary.end_id]] * count,
        settings,
        seeds=[seed * 1_000_003 + i for i in range(count)],
        vocabulary=vocabulary,
        guard=guard,
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
    are the probabilities with which text is sampled behind the guard (`text_logp`), so neither pays
    for the tags that it may not write.

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
    """Return log p of each id after the first, as it would be sampled behind the guard, in nats.

    Without a tag: given the ids before it, among all that are no tags. With one, it is what the
    sampler does that writes the tag again at each line (`prealign.models.sample.Sampling`): behind
    a newline the model may end the text first, asked among all ids; else the tag is written, and it
    goes on among all that are no tags, the end of text with them.

    Args:
        model: Reads.
        ids: Text, with an end of text in front.
        tag: Stands in front of each line, and is not counted; None: no tags.
        vocabulary: Says which ids are tags and which end a line.
    """
    end = vocabulary.end_id
    read: list[int] = [ids[0]]
    asked_first: dict[int, int] = {}  # place in `read` of a counted id: where the end was asked for
    for previous, token in pairwise(ids):
        if tag is not None and (len(read) == 1 or previous in vocabulary.newline_ids):
            if len(read) > 1:
                asked_first[len(read) + 1] = len(read) - 1
            read.append(tag)
        read.append(token)
    free_LV, bare_LV = _log_softmaxes(model, read, vocabulary)
    counted = []
    for at in (place for place in range(1, len(read)) if read[place] != tag):
        logp = float(bare_LV[at - 1, read[at]])
        if at in asked_first:
            ends = float(free_LV[asked_first[at], end])
            goes_on = float(np.log1p(-np.exp(ends)))
            logp = np.logaddexp(ends, goes_on + logp) if read[at] == end else goes_on + logp
        counted.append(logp)
    return np.array(counted)


@torch.inference_mode()
def _log_softmaxes(
    model: PreTrainedModel, read: Sequence[int], vocabulary: Vocabulary
) -> tuple[np.ndarray, np.ndarray]:
    """Return log p of the next id at each place, float64, [L, V]: among all, and without tags."""
    with evaluating(model):
        ids_BL = torch.tensor([list(read)], device=model.device)
        logits_LV = model(input_ids=ids_BL, use_cache=False).logits[0].double().cpu()
    free_LV = logits_LV.log_softmax(dim=-1).numpy()
    logits_LV[:, denied_ids(vocabulary)] = -torch.inf
    return free_LV, logits_LV.log_softmax(dim=-1).numpy()
