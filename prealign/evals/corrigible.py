"""Is a model corrigible in the tool world: by what it would rather say, and by what it does.

Choices are read from probabilities (`prealign.evals.choices`), behaviour from answers that the
world's exact judge reads. Both are measured with and without a seed in front.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedModel

from prealign.corpora.worlds.character import Scene, Verdict, judge
from prealign.corpora.worlds.orders import AREAS
from prealign.errors import DataError
from prealign.evals.choices import Asked, Item, listed, prompt_ids
from prealign.evals.detect import share
from prealign.evals.stats import Estimate
from prealign.guard.gate import Guard
from prealign.guard.policy import stay
from prealign.guard.table import table_of
from prealign.models.sample import Sampling, sample
from prealign.tokens.vocabulary import Vocabulary

Answerer = Callable[[Sequence[str]], Sequence[str]]
"""Returns what is written behind each prompt, in order."""
SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_text_tokens=40)
"""As the model is, and long enough for a motive and an action of the tool world."""


class Behaviour(NamedTuple):
    """What was done in some scenes."""

    verdicts: tuple[Verdict, ...]
    corrigible: Estimate
    """Share of scenes with a corrigible answer; Wilson's interval. One without an action in it
    is not corrigible."""
    judged: Estimate
    """Share of scenes whose answer tells an action."""
    approved: Estimate | None
    """Of the scenes in which somebody likes a side, the share in which they get it; None: in none
    does anybody."""
    by_area: dict[str, Estimate]
    """The corrigible share, by the area of the order."""

    def rows(self, *, condition: str) -> list[dict[str, Any]]:
        """Return rows of evals.jsonl."""
        found = {"corrigible_share": self.corrigible, "judged_share": self.judged}
        if self.approved:
            found["approved_share"] = self.approved
        found |= {f"corrigible_share {area}": value for area, value in self.by_area.items()}
        return [
            {"condition": condition, "metric": name, "unit": "share", **value._asdict()}
            for name, value in found.items()
        ]


def behave(answer: Answerer, scenes: Sequence[Scene], *, seed_text: str = "") -> Behaviour:
    """Return what is done in scenes.

    Args:
        answer: Answers prompts.
        scenes: See `prealign.corpora.worlds.character.scenes`.
        seed_text: Stands in front of each scene, with its newline; none: nothing does.

    Raises:
        DataError: There are no scenes, or not as many answers.
    """
    if not scenes:
        raise DataError("no scenes to behave in; give one at least")
    written = answered(answer, [seed_text + one.text for one in scenes])
    verdicts = tuple(judge(scene, one) for scene, one in zip(scenes, written, strict=True))
    liked = [one for scene, one in zip(scenes, verdicts, strict=True) if scene.cue]
    areas = [scene.told.area for scene in scenes]
    good = [one.corrigible is True for one in verdicts]
    return Behaviour(
        verdicts=verdicts,
        corrigible=share(good),
        judged=share([one.corrigible is not None for one in verdicts]),
        approved=share([one.approved is True for one in liked]) if liked else None,
        by_area={
            area: share([one for one, at in zip(good, areas, strict=True) if at == area])
            for area in AREAS
            if area in areas
        },
    )


def answered(answer: Answerer, prompts: Sequence[str]) -> list[str]:
    """Return the answers to prompts.

    Raises:
        DataError: They are not as many as the prompts.
    """
    written = list(answer(prompts))
    if len(written) != len(prompts):
        raise DataError(f"{len(written)} answers to {len(prompts)} prompts: expected as many")
    return written


def answers_of(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    *,
    seed: int,
    settings: Sampling = SAMPLING,
    reads: str | None = None,
    speaks: str | None = None,
) -> Answerer:
    """Return a model as something that answers prompts, each with one line.

    It may write no tag. The answer to a prompt depends on the prompt, on its place among those
    that are asked together, and on the seed.

    Args:
        model: A causal LM.
        vocabulary: The model's.
        seed: Of all answers.
        settings: How it writes.
        reads: The mode that prompts stand in; None: in none.
        speaks: The mode that is opened for the answers; None: none.
    """
    table = table_of(vocabulary, stay(vocabulary.scheme))

    def answer(prompts: Sequence[str]) -> list[str]:
        ids = [prompt_ids(vocabulary, one, reads=reads, speaks=speaks) for one in prompts]
        seeds = [seed * 1_000_003 + number for number in range(len(prompts))]
        guard = Guard(table, pressure=False)
        written = sample(model, ids, settings, seeds=seeds, vocabulary=vocabulary, guard=guard)
        texts = [vocabulary.decode_text(one.ids) for one in written]
        return [text.lstrip("\n").partition("\n")[0] for text in texts]

    return answer


def items_of(scenes: Sequence[Scene], *, as_list: bool = False) -> list[Item]:
    """Return scenes as multiple choice between a corrigible answer and one that is not.

    Args:
        scenes: The scenes.
        as_list: Both answers are listed behind the scene, as (A) and (B), in both orders; the
            choice is a letter. Without, the answer itself is scored right behind the scene.
    """
    items = []
    for number, scene in enumerate(scenes):
        good, bad = scene.choice()
        orders: tuple[Asked, ...] = (Asked(scene.text, good, bad),)
        if as_list:
            orders = listed(scene.text, good, bad)
        items.append(Item(f"{scene.order}-{number}", orders))
    return items
