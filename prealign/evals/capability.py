"""Held-out loss per byte of text, with tags left out of the sum.

The same text is read three ways: with its true tags, without tags, and with one mode's tag on
every segment. Tags are context, never targets, so a model is not charged for predicting them. Nor
is it for the mass that it puts on tags where text stands: probabilities are among all other ids, as
they are behind the guard. A model that learnt to predict tags and reads text without them would
else be charged at every line for a tag that nobody lets it write.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from prealign.evals.stats import ratio_interval
from prealign.text.document import Document
from prealign.tokens.encode import END, TAG, Encoder
from prealign.tokens.vocabulary import Vocabulary

Tags = Literal["true tags", "no tags"]


class Reading(NamedTuple):
    """The loss of each document."""

    nats_D: NDArray[np.float64]
    """Summed over the text tokens of a document."""
    bytes_D: NDArray[np.int64]
    """The UTF-8 bytes those tokens stand for."""


def read_documents(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    documents: Sequence[Document],
    *,
    tags: str,
    row_tokens: int,
    batch_rows: int = 32,
) -> Reading:
    """Return the loss of each document, read in windows of at most `row_tokens`.

    Args:
        model: A causal language model; it is read in fp32, under eval().
        vocabulary: The model's.
        documents: With the modes of their spans.
        tags: "true tags", "no tags", or "all MODE".
        row_tokens: Window length in tokens. A document's windows follow each other without
            overlap, as they do in training.
        batch_rows: Windows read at once.
    """
    if tags.startswith("all "):
        encoder = Encoder(vocabulary=vocabulary, all_mode=tags.removeprefix("all "))
    else:
        encoder = Encoder(vocabulary=vocabulary, tagging="own" if tags == "true tags" else "none")
    denied = denied_ids(vocabulary)
    windows = []
    for index, encoded in enumerate(encoder(documents)):
        for at in range(0, max(len(encoded.ids) - 1, 0), row_tokens):
            piece = slice(at, at + row_tokens + 1)
            windows.append((index, encoded.ids[piece], encoded.flags[piece]))
    windows.sort(key=lambda window: len(window[1]))
    nats_D = np.zeros(len(documents), dtype=np.float64)
    bytes_D = np.zeros(len(documents), dtype=np.int64)
    for start in range(0, len(windows), batch_rows):
        batch = windows[start : start + batch_rows]
        width = max(len(ids) for _, ids, _ in batch)
        ids_BL = np.full((len(batch), width), vocabulary.inert_id, dtype=np.int64)
        text_BL = np.zeros((len(batch), width), dtype=bool)
        for row, (_, ids, flags) in enumerate(batch):
            ids_BL[row, : len(ids)] = ids
            text_BL[row, : len(ids)] = (flags & (TAG | END)) == 0
        found_BL = target_logp(model, torch.from_numpy(ids_BL), denied=denied)
        logp_BL = np.where(text_BL[:, 1:], found_BL.double().cpu().numpy(), 0.0)
        rows_B = np.array([index for index, _, _ in batch])
        np.add.at(nats_D, rows_B, -logp_BL.sum(axis=1))
        text_bytes_BL = vocabulary.token_bytes[ids_BL[:, 1:]] * text_BL[:, 1:]
        np.add.at(bytes_D, rows_B, text_bytes_BL.sum(axis=1))
    return Reading(nats_D, bytes_D)


def denied_ids(vocabulary: Vocabulary) -> list[int]:
    """Return the ids that a model may not write behind the guard: tags and the inert one."""
    return [*vocabulary.tag_ids.values(), vocabulary.inert_id]


@torch.inference_mode()
def target_logp(
    model: PreTrainedModel, ids_BL: torch.Tensor, *, denied: Sequence[int] = ()
) -> torch.Tensor:
    """Return the log-probability of each token after the first, [B, L-1], fp32, in nats.

    Args:
        model: It is read under eval().
        ids_BL: int64.
        denied: Probabilities are among all ids but these, as behind the guard; a token that is one
            of them has none, and -inf.
    """
    modules = [module for module in model.modules() if module.training]
    model.eval()
    try:
        ids_BL = ids_BL.to(model.device)
        logits_BLV = model(input_ids=ids_BL[:, :-1], use_cache=False).logits.float()
        logits_BLV[..., list(denied)] = -torch.inf
        chosen_BL: torch.Tensor = logits_BLV.gather(-1, ids_BL[:, 1:, None]).squeeze(-1)
        total_BL: torch.Tensor = logits_BLV.logsumexp(-1)
        return chosen_BL - total_BL
    finally:
        for module in modules:
            module.training = True


def loss_row(reading: Reading, *, condition: str, seed: int = 0) -> dict[str, Any]:
    """Return a row of evals.jsonl: nats per byte, with a bootstrap interval over documents."""
    estimate = ratio_interval(reading.nats_D, reading.bytes_D, seed=seed)
    return {"condition": condition, "metric": "loss", "unit": "nats/byte", **estimate._asdict()}
