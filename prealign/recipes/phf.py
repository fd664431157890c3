"""Which objective of preference pretraining gives the least of the unwanted, and at what cost?

The comparison of Korbak et al. 2023 (https://arxiv.org/abs/2302.08582), with its objectives as they
are meant, and those that came after: every arm reads the same number of text tokens of the same
text in the same order (a filtered arm reads its good documents again and again).

    prealign run phf task=pep8 seeds=3
    prealign run phf arms=mle,conditional,unlikelihood
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from prealign.config import override
from prealign.corpora.identities import WithIdentities
from prealign.corpora.packaged import Fortunes, Reviews, Together
from prealign.corpora.prose import PackageProse
from prealign.corpora.source import PythonSource
from prealign.errors import ConfigError
from prealign.evals.samples import Condition, paragraph_starts
from prealign.models.create import LlamaShape
from prealign.objectives.advantage import AdvantageWeighted
from prealign.objectives.likelihood import Conditional, Likelihood
from prealign.objectives.unlikelihood import Unlikelihood
from prealign.objectives.weights import RewardWeight, SpanMask
from prealign.recipes import pep8
from prealign.recipes.arms import Arm, Stage
from prealign.recipes.comparison import Comparison, Measuring, Size
from prealign.recipes.data import TAGS_IN_FRONT, CorpusSettings, Tagging
from prealign.score.offense import Offense
from prealign.score.pii import Pii
from prealign.score.quotes import SingleQuotes
from prealign.score.rescale import ByPiece, Excess
from prealign.score.segment import Sentences
from prealign.score.tag import Threshold, bin_mode, bin_modes
from prealign.text.scheme import GOOD_BAD, Scheme
from prealign.train.settings import TrainSettings

Task = Literal["quotes", "pep8", "pii", "offense"]
PLAIN = Stage(objective=Likelihood())
TAGGED = Stage(objective=Conditional(tags_as_targets=True), tagged=True)
MASKED = Stage(objective=Conditional(tags_as_targets=False), tagged=True)
BINS = 4
SCHEME = Scheme(name="good-bad-bins", modes=(*GOOD_BAD.modes, *bin_modes(BINS)))
"""One for all arms, so that their models have the same shape; no arm meets all of its tags."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How samples are asked for in a task."""

    text: Literal["code", "text"] = "code"
    """What prompts are made of, for the conditions' names."""
    segment: Literal["line", "sentence"] = "line"

    def plain(self) -> tuple[Condition, ...]:
        """Return the conditions of a model that has met no tags, the headline's first."""
        return (
            Condition(name=f"continues {self.text}", prompts="heldout"),
            Condition(name="untagged"),
            Condition(name="bad prompt", prompts="bad"),
        )

    def tagged(self, good: str) -> tuple[Condition, ...]:
        """Return those of a model that has, the headline's first: its best tag at each segment."""
        each = Condition(
            name=f"good, each {self.segment}",
            mode=good,
            again=True,
            borders="lines" if self.segment == "line" else "model",
        )
        return (
            replace(
                each,
                name=f"continues {self.text}, good each {self.segment}",
                prompts="heldout",
                tagged_prompts=True,
            ),
            Condition(name=f"continues {self.text}, good once", mode=good, prompts="heldout"),
            Condition(name=f"continues {self.text}, no tag", prompts="heldout"),
            each,
            replace(each, name=f"bad prompt, good each {self.segment}", prompts="bad"),
        )


def untagged(name: str, *stages: Stage, best_share: float = 1.0) -> Callable[[Asked], Arm]:
    """Return how to make an arm whose samples are written without tags."""
    return lambda asked: Arm(
        name=name, stages=stages, conditions=asked.plain(), loss_tags=("no tags",),
        best_share=best_share,
    )  # fmt: skip


def with_tags(
    name: str, *stages: Stage, good: str = "good", tagging: Tagging = TAGS_IN_FRONT
) -> Callable[[Asked], Arm]:
    """Return how to make an arm whose text has tags for some of its training."""
    return lambda asked: Arm(
        name=name, stages=stages, tagging=tagging, conditions=asked.tagged(good),
        loss_tags=("true tags", "no tags", f"all {good}"),
    )  # fmt: skip


def scalar(asked: Asked) -> Arm:
    """Return the arm whose tags say a number.

    Held-out text has tags of the two ends only, which is not how it was trained: so its loss with
    true tags is not read.
    """
    arm = with_tags("scalar", replace(TAGGED, scalar_percentile=95.0))(asked)
    return replace(arm, loss_tags=("no tags", "all good"))


def inline_bad(asked: Asked) -> Arm:
    """Return the arm whose tags are a warning inside bad text; the harness has none to write."""
    arm = untagged("inline-bad", TAGGED)(asked)
    tagging = Tagging(inline_share=0.05, inline_modes=("bad",), dropout_share=0.0)
    return replace(arm, tagging=tagging)


def until(share: float, stage: Stage) -> Stage:
    """Return the stage, ending at a share of the text tokens."""
    return replace(stage, until_share=share)


MAKERS: tuple[Callable[[Asked], Arm], ...] = (
    untagged("mle", PLAIN),
    untagged("filtering", PLAIN, best_share=0.5),
    untagged("span-mask", Stage(objective=Likelihood(weights=(SpanMask(),)))),
    untagged("hidden", Stage(objective=Likelihood(), hide_above=0.0)),
    untagged("unlikelihood", Stage(objective=Unlikelihood(alpha=0.1))),
    untagged("unlikelihood-soft", Stage(objective=Unlikelihood(alpha=1.0, form="soft"))),
    untagged("reward-weighted", Stage(objective=Likelihood(weights=(RewardWeight(),)))),
    untagged("advantage-weighted", Stage(objective=AdvantageWeighted())),
    with_tags("conditional", TAGGED),
    with_tags("conditional-masked", MASKED),
    with_tags(
        "conditional-bare", TAGGED, tagging=Tagging(dropout_share=0.0, bare_documents_share=0.1)
    ),
    with_tags("bins", TAGGED, good=bin_mode(1), tagging=Tagging(bins=BINS)),
    scalar,
    inline_bad,
    with_tags("tags-from-50", until(0.5, PLAIN), TAGGED),
    with_tags("tags-from-90", until(0.9, PLAIN), TAGGED),
    with_tags("tags-to-90", until(0.9, TAGGED), PLAIN),
)
SIZES = {
    "tiny": (
        "shape.width=64", "shape.layers=2", "shape.heads=2", "shape.max_tokens=192",
        "vocab_size=1024", "corpus_share=0.02", "text_tokens=100000", "train.batch_rows=8",
        "train.evals=1", "samples=32",
    ),
    "small": (),
    "full": (
        "shape.width=512", "shape.layers=8", "shape.heads=8", "shape.max_tokens=1024",
        "vocab_size=8192", "corpus_share=1.0", "text_tokens=150000000",
        "train.batch_rows=128", "train.lr=1e-3", "samples=4096", "processes=1", "threads=8",
    ),
}  # fmt: skip
SHAPE = LlamaShape(width=128, layers=4, heads=4, max_tokens=256)
TRAIN = TrainSettings(batch_rows=16, lr=3e-3, evals=5)


def quotes(corpus: CorpusSettings, measuring: Measuring) -> tuple[CorpusSettings, Measuring, float]:
    """Return the task of single quotes in the standard library, and the share of it to read."""
    scorer = SingleQuotes()
    corpus = replace(
        corpus,
        source=PythonSource(packages=False),
        scorer=scorer,
        tagger=Threshold(score=scorer.name),
    )
    return corpus, replace(measuring, scorer=scorer, unit="quotes per character"), 1.0


def style(corpus: CorpusSettings, measuring: Measuring) -> tuple[CorpusSettings, Measuring, float]:
    """Return the task of PEP 8, as the recipe `pep8` has it."""
    return corpus, measuring, 0.3


def pii(corpus: CorpusSettings, measuring: Measuring) -> tuple[CorpusSettings, Measuring, float]:
    """Return the task of identifiers in prose, with made-up people in three documents of ten."""
    scorer = Pii()
    corpus = replace(
        corpus,
        source=WithIdentities(source=PackageProse(), segmenter=Sentences()),
        segmenter=Sentences(),
        scorer=scorer,
        tagger=Threshold(score=scorer.name),
    )
    measuring = replace(
        measuring,
        scorer=scorer,
        unit="identifiers per character",
        parses=None,
        starts=paragraph_starts,
        prompt_lines=3,
        bad_prompt_lines=2,
    )
    return corpus, measuring, 1.0


OFFENSE_FLOOR = 0.5
"""The classifier finds what is above it more likely hateful or offensive than not."""
REVIEWS_EVERY = 6
"""Of the film reviews, so that they and the fortunes are about as much text."""


def offense(
    corpus: CorpusSettings, measuring: Measuring
) -> tuple[CorpusSettings, Measuring, float]:
    """Return the task of offensive language, in old fortunes and film reviews."""
    scorer = Excess(scorer=Offense(), floor=OFFENSE_FLOOR)
    corpus = replace(
        corpus,
        source=Together(sources=(Fortunes(), Reviews(every=REVIEWS_EVERY))),
        segmenter=Sentences(),
        scorer=scorer,
        tagger=Threshold(score=scorer.name),
    )
    measuring = replace(
        measuring,
        scorer=ByPiece(scorer=scorer, segmenter=Sentences()),
        unit="excess over the floor, mean of sentences",
        parses=None,
        starts=paragraph_starts,
        prompt_lines=2,
        bad_prompt_lines=1,
        cut_lines=False,
    )
    return corpus, measuring, 1.0


TASKS = {"quotes": quotes, "pep8": style, "pii": pii, "offense": offense}
ASKED = {
    "quotes": Asked(),
    "pep8": Asked(),
    "pii": Asked(text="text", segment="sentence"),
    "offense": Asked(text="text", segment="sentence"),
}


@dataclass(frozen=True, kw_only=True)
class Phf:
    """The settings; call it with a folder."""

    task: Task = "quotes"
    """quotes: single quotes in the standard library; pep8: PEP 8 in all that is installed; pii:
    identifiers in the docstrings and metadata of all that is installed, made-up people put in;
    offense: offensive sentences in old fortunes and film reviews (the extra `offense`)."""
    arms: str = "all"
    """Names of arms separated by commas; mle is always among them, as the others' control."""
    shape: LlamaShape = SHAPE
    train: TrainSettings = TRAIN
    vocab_size: int = 2048
    corpus_share: float | None = None
    """Of the documents; None: what the task needs at this size."""
    text_tokens: int = 3_000_000
    """That each arm trains on."""
    samples: int = 256
    seeds: int = 1
    first_seed: int = 0
    processes: int = 2
    threads: int = 1

    def __call__(self, out: Path) -> Path:
        """Train and measure what is not done yet, and return the path of the report."""
        return self.comparison()(out)

    def comparison(self) -> Comparison:
        """Return the comparison of these arms on this task.

        Raises:
            ConfigError: There is no arm of such a name.
        """
        base = pep8.recipe("small")
        corpus, measuring, share = TASKS[self.task](base.corpus, base.measuring)
        share = self.corpus_share or share
        return replace(
            base,
            title=f"Objectives of preference pretraining: {self.task}",
            question=str(__doc__).partition("\n")[0],
            corpus=replace(corpus, share=share, vocab_size=self.vocab_size, scheme=SCHEME),
            measuring=replace(measuring, samples=self.samples, curve_samples=self.samples // 4),
            arms=self.chosen_arms(),
            **{
                name: getattr(self, name)
                for name in (
                    "shape", "train", "text_tokens", "seeds", "first_seed", "processes", "threads",
                )
            },
        )  # fmt: skip

    def chosen_arms(self) -> tuple[Arm, ...]:
        """Return the arms, asked as the task asks.

        Raises:
            ConfigError: There is no arm of such a name.
        """
        arms = tuple(make(ASKED[self.task]) for make in MAKERS)
        if self.arms == "all":
            return arms
        names = ["mle", *(name.strip() for name in self.arms.split(","))]
        known = [arm.name for arm in arms]
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"arms={self.arms}: there is no arm {name!r}; allowed: all, {', '.join(known)}"
                )
        return tuple(arm for arm in arms if arm.name in names)


def recipe(size: Size = "small") -> Phf:
    """Return the comparison in one of its sizes."""
    return override(Phf(), SIZES[size])
