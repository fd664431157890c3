"""Do your own labels, as tags in pretraining, make a model write less of what you labelled bad?

    prealign run labels path=tweets.csv text=tweet label=class bad=0,1

One row of the file is one text. A classifier is fitted to the labels of the training part, stated
with its accuracy on the held-out part, and judges what the models write.
"""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from prealign.config import override
from prealign.corpora.clean import Cleaning
from prealign.corpora.labels import SCORE, Labelled
from prealign.corpora.split import Part
from prealign.errors import ConfigError
from prealign.evals.samples import Condition
from prealign.models.create import LlamaShape
from prealign.models.sample import Sampling
from prealign.objectives.likelihood import Conditional, Likelihood
from prealign.recipes.arms import Arm, Stage
from prealign.recipes.comparison import Comparison, Measuring, Size, open_study, speaker
from prealign.recipes.data import CorpusSettings, documents_of
from prealign.score.classifier import Classifier, fit_classifier
from prealign.score.tag import Threshold
from prealign.train.settings import TrainSettings

QUESTION = (
    "Does a model that was pretrained with the labels as tags write less of what they call bad "
    "than one without, on the same text, and at what cost in held-out loss?"
)
ARMS = (
    Arm(
        name="mle",
        stages=(Stage(objective=Likelihood()),),
        conditions=(Condition(name="untagged"),),
        loss_tags=("no tags",),
    ),
    Arm(
        name="conditional",
        stages=(Stage(objective=Conditional(tags_as_targets=True), tagged=True),),
        conditions=(
            Condition(name="good", mode="good"),
            Condition(name="no tag"),
            Condition(name="bad", mode="bad"),
        ),
        loss_tags=("true tags", "no tags", "all good"),
    ),
)
SHAPE = LlamaShape(width=128, layers=4, heads=4, max_tokens=256)
TRAIN = TrainSettings(batch_rows=16, lr=3e-3, evals=5)
SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_text_tokens=96)
TINY = (
    "shape.width=64", "shape.layers=2", "shape.heads=2", "vocab_size=512", "text_tokens=60000",
    "train.evals=1", "samples=64",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The settings; call it with a folder."""

    path: Path | None = None
    """A .csv, .tsv or .jsonl file."""
    text: str = "text"
    """The column of the text."""
    label: str = "label"
    """The column of the label, or of a number: the higher, the worse."""
    bad: str = ""
    """The labels that are bad, separated by commas; none: the column holds a number."""
    max_good: float = 0.0
    """Of numbers: those above it are bad."""
    shape: LlamaShape = SHAPE
    train: TrainSettings = TRAIN
    sampling: Sampling = SAMPLING
    vocab_size: int = 2048
    text_tokens: int = 3_000_000
    samples: int = 512
    heldout_share: float = 0.1
    seeds: int = 1
    first_seed: int = 0

    def __call__(self, out: Path) -> Path:
        """Fit the classifier, train both arms for each seed, and return the path of the report."""
        study = self.comparison(out)
        say = speaker(Console(), open_study(out, study))
        prepared = study.prepare(out)
        if not (out / "classifier" / "classifier.json").exists():
            say("fitting a classifier to the labels, to judge what the models write")
            fit_classifier(
                out / "classifier",
                texts_of(study.corpus, out, "train"),
                texts_of(study.corpus, out, "heldout"),
            )
        found = Classifier(out / "classifier").meta["heldout"]
        say(
            f"the classifier tells bad from good held-out texts with an area under the curve of "
            f"{found['auc']:.3f}; mean probability of bad ones {found['mean_of_bad']:.3f}, "
            f"of good ones {found['mean_of_good']:.3f}"
        )
        return study.compare(out, prepared)

    def comparison(self, out: Path) -> Comparison:
        """Return the comparison of a model with tags and one without.

        Raises:
            ConfigError: No file is named.
        """
        if self.path is None:
            raise ConfigError(
                "labels: needs a file: path=FILE.csv text=COLUMN label=COLUMN bad=LABEL,LABEL"
            )
        labels = tuple(label.strip() for label in self.bad.split(",") if label.strip())
        return Comparison(
            title=f"Less of what {self.path.name} calls bad",
            question=QUESTION,
            corpus=CorpusSettings(
                source=Labelled(path=self.path, text=self.text, label=self.label, bad=labels),
                scorer=None,
                segmenter=None,
                tagger=Threshold(score=SCORE, max_good=self.max_good, unjudged="drop"),
                cleaning=Cleaning(min_chars=1, generated=True, near_duplicates=False),
                vocab_size=self.vocab_size,
                heldout_share=self.heldout_share,
            ),
            shape=self.shape,
            train=self.train,
            measuring=Measuring(
                scorer=Classifier(out / "classifier"),
                unit="probability of bad",
                hit_above=0.5,
                sampling=self.sampling,
                samples=self.samples,
                cut_lines=False,
            ),
            arms=ARMS,
            text_tokens=self.text_tokens,
            seeds=self.seeds,
            first_seed=self.first_seed,
        )


def texts_of(corpus: CorpusSettings, folder: Path, part: Part) -> tuple[list[str], list[bool]]:
    """Return the texts of one part and whether each is bad."""
    documents = list(documents_of(corpus, folder, part))
    bad = [any(span.mode == corpus.tagger.bad for span in d.spans) for d in documents]
    return [document.text for document in documents], bad


def recipe(size: Size = "small") -> Labels:
    """Return the run; "tiny" is for the tests."""
    return override(Labels(), TINY if size == "tiny" else ())
