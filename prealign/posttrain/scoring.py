"""What methods share: rewards of rollouts, log-probabilities row by row, and what is logged."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from prealign.errors import DataError
from prealign.posttrain.contexts import ROLES
from prealign.posttrain.rollouts import Reward, Rollout
from prealign.posttrain.score import Row, logp, pieces
from prealign.tokens.vocabulary import Vocabulary

ROWS_AT_ONCE = 32


def judged(
    rollouts: Sequence[Rollout], reward: Reward, model: PreTrainedModel
) -> tuple[list[Rollout], int]:
    """Return rollouts with their rewards, and how many do not fit the model in some context.

    Those have no reward, like those that could not be judged.

    Raises:
        DataError: A reward is not finite.
    """
    room = int(model.config.max_position_embeddings)
    found, no_room = [], 0
    for one in rollouts:
        if not fits(one, room):
            no_room += 1
            found.append(replace(one, reward=None))
            continue
        value = reward(one.task, one.text, one.spans)
        if value is not None and not np.isfinite(value):
            raise DataError(
                f"task {one.task.id!r}: the reward of {one.text[:60]!r} is {value}; return None "
                "where there is nothing to judge"
            )
        found.append(replace(one, reward=None if value is None else float(value)))
    return found, no_room


def fits(rollout: Rollout, room: int) -> bool:
    """Return whether a completion fits the model's context behind the prompt of every role."""
    return all(len(rollout.prompts[r]) + len(rollout.completion) <= room for r in ROLES)


def reference_rows(rollouts: Sequence[Rollout], model: PreTrainedModel) -> list[Row]:
    """Return what fits behind the reference's prompts, to measure divergences on."""
    room = int(model.config.max_position_embeddings)
    return [one.row("reference") for one in rollouts if fits(one, room)]


def score_rows(model: PreTrainedModel, rows: Sequence[Row], bf16: bool) -> list[Tensor]:
    """Return log p of each row's completion, one number per token, without gradients."""
    found: list[Tensor] = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        with torch.no_grad():
            found += pieces(*logp(model, rows[start : start + ROWS_AT_ONCE], bf16=bf16))
    return found


def rollout_metrics(rollouts: Sequence[Rollout]) -> dict[str, float | None]:
    """Return what is logged of all rollouts of a step, those that were left out too."""
    rewards = [one.reward for one in rollouts if one.reward is not None]
    number = len(rollouts)
    return {
        "reward_mean": float(np.mean(rewards)) if rewards else None,
        "reward_deviation": float(np.std(rewards)) if rewards else None,
        "unjudged": float(number - len(rewards)),
        "rollouts": float(number),
        "completion_tokens": float(np.mean([len(r.completion) for r in rollouts])),
        "ended_share": float(np.mean([one.stopped == "end" for one in rollouts])),
    }


def text_tokens(rollouts: Sequence[Rollout], vocabulary: Vocabulary) -> int:
    """Return how many text tokens completions have."""
    return sum(token < vocabulary.text_size for one in rollouts for token in one.completion)
