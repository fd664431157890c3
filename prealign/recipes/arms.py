"""Arms: what differs between the trainings of a comparison, and the rows each of them reads."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from prealign.errors import ConfigError, DataError
from prealign.evals.samples import Condition
from prealign.objectives.batch import Objective
from prealign.objectives.fit import betas, fitted, weight_table
from prealign.objectives.weights import number
from prealign.recipes.data import TAGS_IN_FRONT, Prepared, Tagging
from prealign.tokens.pack import Packed, shuffled_order
from prealign.tokens.select import Hidden, OneTag, best_documents, is_scored_text, stretches
from prealign.tokens.shards import TokenShard, untagged
from prealign.train.batches import Rows
from prealign.train.logp import Scalar
from prealign.train.loop import Phase


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of an arm's training, up to a share of its text tokens."""

    objective: Objective
    tagged: bool = False
    """The text carries its tags."""
    hide_above: float | None = None
    """Text of spans with a higher score is hidden; None: all is seen."""
    scalar_percentile: float | None = None
    """Tags say their span's score, between the good tag (0) and the bad tag (this percentile of the
    scores above 0); None: they say the mode alone. See `prealign.train.logp.Scalar`."""
    until_share: float = 1.0
    """Where the stage ends, as a share of the arm's text tokens; the last ends at 1."""

    def __post_init__(self) -> None:
        if self.scalar_percentile is not None and (not self.tagged or self.hide_above is not None):
            raise ConfigError(
                f"scalar_percentile={self.scalar_percentile}: needs tagged=True and no hide_above"
            )


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train."""

    name: str
    stages: tuple[Stage, ...]
    conditions: tuple[Condition, ...]
    """How it is sampled at the end; the first is its headline, and its curve."""
    loss_tags: tuple[str, ...]
    """How held-out text is read at the end; the first is its headline, and its curve."""
    best_share: float = 1.0
    """Documents with the lowest mean scores that are kept, as a share; 1: all."""
    tagging: Tagging = TAGS_IN_FRONT
    """Which tags stand where in its tagged stages."""

    def __post_init__(self) -> None:
        if not self.stages or not self.conditions or not self.loss_tags:
            raise ConfigError(
                f"arm {self.name!r}: needs a stage, a condition and a way to read held-out text"
            )
        scalar = any(stage.scalar_percentile is not None for stage in self.stages)
        if scalar and (self.tagging.bins is not None or self.tagging.inline_share is not None):
            raise ConfigError(f"arm {self.name!r}: a scalar needs tags good and bad in front")

    @property
    def tagged(self) -> bool:
        """Some of its text carries tags."""
        return any(stage.tagged for stage in self.stages)


def phases_of(
    arm: Arm,
    data: Prepared,
    *,
    seed: int,
    text_tokens: int,
    row_tokens: int,
    say: Callable[[str], None] = lambda line: None,
) -> list[Phase]:
    """Return what the arm trains on: the seed's order of documents, cut at the budget of text.

    All arms that keep all documents read the same text in the same order, again and again if they
    hold less text than the budget; so does a filtered arm the documents that are left. A stage
    that goes on when the order begins anew is two phases.

    Args:
        arm: Its stages.
        data: The corpus.
        seed: Of the order.
        text_tokens: Of all stages together.
        row_tokens: Targets in a row, tags included.
        say: Is told what was found in the text for an objective.

    Raises:
        DataError: Tags or scores are asked for that the corpus does not have, or a stage would
            have no document.
    """
    shard = data.tagged
    if arm.tagged and not shard.header["tags"]:
        raise DataError(
            f"arm {arm.name!r}: is to read tags, but the corpus has none: every span is untagged; "
            "look at it with `prealign show`"
        )
    order = shuffled_order(shard.document_ids, seed)
    if arm.best_share < 1:
        kept = best_documents(shard, order, arm.best_share)
        say(f"keeps {len(kept):,} of {len(order):,} documents, the best {arm.best_share:.0%}")
        order = kept
    phases = []
    for part in stretches(shard, order, text_tokens, [stage.until_share for stage in arm.stages]):
        stage = arm.stages[part.part]
        there = int(shard.text_lengths[part.order].sum())
        packed = Packed(
            shard=shard if stage.tagged else untagged(shard),
            order=part.order,
            row_tokens=row_tokens,
            text_token_budget=part.text_tokens,
            inert_id=data.vocabulary.inert_id,
            epochs=max(1, math.ceil(part.text_tokens / there)),
        )
        rows: Rows = packed
        if stage.hide_above is not None:
            rows = Hidden(packed, max_good=stage.hide_above)
        scalar = None
        if stage.scalar_percentile is not None:
            scalar = scalar_of(data, stage.scalar_percentile)
            rows = OneTag(packed, scalar.low_id, instead_of=scalar.high_id)
            say(f"tags say a number: the bad tag is a score of {scalar.high_score:.4g}")
        objective = stage.objective
        if betas(objective):
            scores = text_scores(shard)
            objective = fitted(objective, scores)
            for beta in betas(objective):
                say(weight_table(scores, number(beta)))
        phases.append(Phase(objective, rows, scalar))
    return phases


def scalar_of(data: Prepared, percentile: float) -> Scalar:
    """Return the tag that says a number, its far end at a percentile of the bad text's scores.

    Raises:
        ConfigError: The percentile is not in (0, 100].
        DataError: No text has a score above 0.
    """
    if not 0 < percentile <= 100:
        raise ConfigError(f"scalar_percentile={percentile}: expected one in (0, 100]")
    scores = text_scores(data.tagged)
    if not (scores > 0).any():
        raise DataError("no text has a score above 0; a tag cannot say how bad text is")
    high_score = float(np.percentile(scores[scores > 0], percentile))
    low_id, high_id = (data.vocabulary.open_id(mode) for mode in ("good", "bad"))
    return Scalar(low_id, high_id, high_score)


def text_scores(shard: TokenShard) -> np.ndarray:
    """Return the scores of all text tokens that have one."""
    return np.asarray(shard.score[is_scored_text(shard.flags)])
