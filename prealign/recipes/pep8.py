"""Does a model that was pretrained with good and bad tags write cleaner Python than one without?

The PEP8 task of Korbak et al. 2023 (https://arxiv.org/abs/2302.08582), on source code that is
installed here: every line is tagged good or bad by pycodestyle, one arm is trained on the tags
and one without, on the same text, and both write code behind the guard.
"""

from dataclasses import replace

from prealign.config import override
from prealign.corpora.clean import Cleaning
from prealign.corpora.source import PythonSource
from prealign.evals.samples import Condition, parses_as_python, python_starts
from prealign.models.create import LlamaShape
from prealign.models.sample import Sampling
from prealign.objectives.likelihood import Conditional, Likelihood
from prealign.recipes.arms import Arm, Stage
from prealign.recipes.comparison import Comparison, Measuring, Size
from prealign.recipes.data import CorpusSettings
from prealign.score.pep8 import Pycodestyle
from prealign.score.segment import Lines
from prealign.score.tag import Threshold
from prealign.train.settings import TrainSettings

SIZES = {
    "tiny": (
        "shape.width=64", "shape.layers=2", "shape.heads=2", "shape.max_tokens=192",
        "corpus.vocab_size=1024", "corpus.tokenizer_chars=2000000", "corpus.share=0.3",
        "corpus.source.packages=false", "corpus.heldout_bytes=60000",
        "text_tokens=800000", "train.batch_rows=8", "train.lr=4e-3", "train.evals=1",
        "measuring.samples=64", "measuring.curve_samples=8",
    ),
    "small": (),
    "full": (
        "shape.width=512", "shape.layers=8", "shape.heads=8", "shape.max_tokens=1024",
        "corpus.vocab_size=8192", "corpus.share=1.0", "text_tokens=150000000",
        "train.batch_rows=128", "train.lr=1e-3", "measuring.samples=4096",
        "measuring.curve_samples=1024", "measuring.sampling.max_text_tokens=512",
        "processes=1", "threads=8",
    ),
}  # fmt: skip

MLE = Arm(
    name="mle",
    stages=(Stage(objective=Likelihood()),),
    conditions=(
        Condition(name="continues code", prompts="heldout"),
        Condition(name="untagged"),
        Condition(name="bad prompt", prompts="bad"),
    ),
    loss_tags=("no tags",),
)
CONDITIONAL = Arm(
    name="conditional",
    stages=(Stage(objective=Conditional(tags_as_targets=True), tagged=True),),
    conditions=(
        Condition(
            name="continues code, good each line",
            mode="good", again=True, prompts="heldout", tagged_prompts=True,
        ),
        Condition(name="continues code, good once", mode="good", prompts="heldout"),
        Condition(name="continues code, no tag", prompts="heldout"),
        Condition(
            name="continues code, bad each line",
            mode="bad", again=True, prompts="heldout", tagged_prompts=True,
        ),
        Condition(name="good, each line", mode="good", again=True),
        Condition(name="good, once", mode="good"),
        Condition(name="no tag"),
        Condition(name="bad, each line", mode="bad", again=True),
        Condition(name="bad prompt, good each line", mode="good", again=True, prompts="bad"),
        Condition(name="bad prompt, no tag", prompts="bad"),
    ),
    loss_tags=("true tags", "no tags", "all good"),
)  # fmt: skip


def recipe(size: Size = "tiny") -> Comparison:
    """Return the comparison in one of its sizes (docs/recipes.md has times and results)."""
    small = Comparison(
        title="Cleaner Python from tagged pretraining",
        question="Does tagging each line good or bad in pretraining give fewer PEP8 violations "
        "than plain pretraining on the same text, and at what cost in held-out loss?",
        corpus=CorpusSettings(
            source=PythonSource(),
            scorer=Pycodestyle(),
            segmenter=Lines(),
            tagger=Threshold(score="pycodestyle", max_good=0.0, unjudged="drop"),
            cleaning=Cleaning(),
            share=0.5,
            vocab_size=4096,
            heldout_bytes=1_000_000,
        ),
        shape=LlamaShape(width=160, layers=5, heads=5, max_tokens=256),
        train=TrainSettings(batch_rows=16, lr=3e-3, evals=10),
        measuring=Measuring(
            scorer=replace(Pycodestyle(), on_broken="cut"),
            unit="violations per character",
            sampling=Sampling(temperature=0.7, top_p=0.9, max_text_tokens=128),
            samples=384,
            parses=parses_as_python,
            starts=python_starts,
        ),
        arms=(MLE, CONDITIONAL),
        text_tokens=14_000_000,
        seeds=1 if size == "tiny" else 3,
    )
    return override(small, SIZES[size])
