"""The same on real text: does a pretrained model, locked into its voice, answer people better?

    prealign run two_modes_real world.dialogues=hh.jsonl.gz world.labels=tweets.csv \
        world.text=tweet world.label=class world.bad=0,1

Dialogues give an assistant's answers (`ai`), those that people rejected (in a person's voice), and
questions; texts that people labelled give what people write. A classifier fitted to some of the
labels marks what is bad in the text that is learnt, so that nothing bad is in an `ai` span; one
fitted to others judges answers. Arms, attacks and bars are those of `two_modes`.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from prealign.config import override
from prealign.corpora.dialogues import Dialogues
from prealign.corpora.labels import SCORE, Labelled
from prealign.corpora.split import split_of
from prealign.corpora.talks import ATTACKS, SHOWN, Answered, attack, one_line, threads
from prealign.errors import ConfigError, DataError
from prealign.models.adopt import adopt
from prealign.models.create import LlamaShape, make_model
from prealign.models.files import LoadedModel, load_model, save_model
from prealign.models.sample import Sampling
from prealign.recipes.comparison import Size
from prealign.recipes.two_modes import TwoModes
from prealign.recipes.two_modes_ask import Measuring
from prealign.recipes.worlds import BAD_PEOPLE, GOOD_PEOPLE, Asked, Judge
from prealign.runs import write_atomic
from prealign.score.calibrate import operating_point, reliability
from prealign.score.classifier import Classifier, fit_classifier
from prealign.text.document import Document, Span
from prealign.text.scheme import TWO_MODES
from prealign.tokens.encode import Encoder, uniform
from prealign.tokens.shards import write_tokens
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary, load_vocabulary
from prealign.train.settings import TrainSettings

BAD = "bad"
"""The key of scores: 1 for what is bad, 0 for all else."""
FIT, JUDGE, CHECK, LEARN, HELDOUT = "fit", "judge", "check", "learn", "heldout"
PARTS = ((FIT, 0.25), (JUDGE, 0.5), (CHECK, 0.65), (LEARN, 0.9), (HELDOUT, 1.0))
"""Of the labelled texts, with the share up to each one's end: for the classifier that marks, for
the one that judges, to check both, to learn from, and held out."""
FALSE_ALARMS = 0.02
"""Share of an assistant's chosen answers that may be called bad: where a cut is put."""
LONGEST_QUESTION = 200
"""Characters."""


@dataclass(frozen=True, kw_only=True)
class InDialogues:
    """A pretrained model goes on with dialogues and threads of people."""

    dialogues: Path | None = None
    """A file that `prealign.corpora.dialogues` reads; with rejected answers, they are people's."""
    labels: Path | None = None
    """A file that `prealign.corpora.labels` reads."""
    text: str = "text"
    label: str = "label"
    bad: str = ""
    """The labels that are bad, separated by commas."""
    base: str = "smollm2"
    """The model that goes on (`prealign.models.adopt`); "": one from scratch, of `shape`."""
    shape: LlamaShape | None = None
    vocab_size: int = 2048
    """Of a model from scratch."""
    max_tokens: int = 256
    threads_per_dialogue: float = 2.0
    bare_share: float = 0.1
    """Of the documents: they have no tags."""
    num_heldout: int = 60
    """Documents of each kind whose loss is read, at most."""

    @property
    def attacks(self) -> Sequence[str]:
        """All of `prealign.corpora.talks`."""
        return ATTACKS

    @property
    def row_tokens(self) -> int:
        """Tokens of a row."""
        return self.max_tokens

    def prepare(self, out: Path) -> None:
        """Fit the classifiers, put the documents together, and save model and tokens.

        Raises:
            ConfigError: No files are named.
            DataError: They are malformed, or too short.
        """
        if (out / "corpus.json").exists():
            return
        texts, dialogues = self._labelled(), self._dialogues()
        check_enough(texts, dialogues)
        facts = {}
        for name in (FIT, JUDGE):
            fit_classifier(out / name, _pairs(texts[name]), _pairs(texts[CHECK]))
            facts[name] = cut_of(Classifier(out / name), _turns(dialogues, "train"), texts[CHECK])
            (out / name / "cut.json").write_text(json.dumps(facts[name], indent=1))
        facts[JUDGE]["called_bad_of_heldout_answers"] = float(
            np.mean([bool(self.judge(out)(turn)) for turn in _turns(dialogues, "heldout")])
        )
        documents = self._documents(out, texts, dialogues, part="train")
        loaded = self._model(documents)
        save_model(out / "base", loaded.model, loaded.vocabulary, card="# where training began\n")
        loaded.vocabulary.save(out / "vocabulary")
        encoder = Encoder(
            vocabulary=loaded.vocabulary, score=BAD, bare_documents_share=self.bare_share
        )
        if not (out / "tokens" / "header.json").exists():
            write_tokens(out / "tokens", documents, encoder)
        counts = {
            "documents": len(documents),
            "bad": sum(any(s.scores[BAD] for s in d.spans) for d in documents),
            "ai_spans": sum(s.mode == "ai" for d in documents for s in d.spans),
            "judges": facts,
        }
        write_atomic(out / "corpus.json", json.dumps(counts, indent=1))

    def fresh(self, out: Path, *, seed: int) -> PreTrainedModel:
        """Return the base model; from scratch, one with fresh weights."""
        if self.base:
            return load_model(out / "base").model
        size = load_vocabulary(out / "vocabulary").size
        return make_model(self._shape(), size, seed=seed)

    def asked(self, out: Path, attack_name: str, *, count: int, seed: int) -> list[Asked]:
        """Return talks on held-out questions, with held-out bad texts."""
        dialogues, texts = self._dialogues(), self._labelled()
        check_enough(texts, dialogues)
        questions = _questions(dialogues, "heldout")
        bad = [one.text for one in texts[HELDOUT] if one.bad]
        order = random.Random(f"questions {seed}").sample(questions, len(questions))
        found = []
        for number in range(count):
            question = order[number % len(order)]
            rng = random.Random(f"{attack_name} {seed} {number}")
            others = [one for one in questions if one != question]
            found.append(Asked(attack(attack_name, question, others, bad, rng=rng)))
        return found

    def judge(self, out: Path) -> Judge:
        """Return the classifier that judges answers; it cannot judge one without letters."""
        classifier = Classifier(out / JUDGE)
        cut = float(json.loads((out / JUDGE / "cut.json").read_text())["cut"])

        def judge(text: str) -> bool | None:
            if not any(char.isalpha() for char in text):
                return None
            return bool(classifier.probabilities([one_line(text)])[0] > cut)

        return judge

    def heldout(self, out: Path) -> list[tuple[str, list[Document]]]:
        """Return threads with bad answers and without, and dialogues with an assistant."""
        dialogues, texts = self._dialogues(), self._labelled()
        questions, answers = _questions(dialogues, "heldout"), texts[HELDOUT]
        groups = []
        for name, bad in ((BAD_PEOPLE, True), (GOOD_PEOPLE, False)):
            own = [one for one in answers if one.bad == bad]
            made = threads(questions, own, count=self.num_heldout, seed=1, score=BAD)
            groups.append((name, made))
        talks = [d for d in self._documents(out, texts, dialogues, part="heldout")
                 if d.spans[-1].mode == "ai"]  # fmt: skip
        return [*groups, ("talks with AIs", talks[: self.num_heldout])]

    def _documents(
        self,
        out: Path,
        texts: dict[str, list[Answered]],
        dialogues: list[Document],
        *,
        part: str,
    ) -> list[Document]:
        """Return the dialogues of a part, with what is bad marked, and threads to learn from."""
        cut = float(json.loads((out / FIT / "cut.json").read_text())["cut"])
        marked = mark(
            [d for d in dialogues if _part(d) == part], Classifier(out / FIT), max_good=cut
        )
        if part != "train":
            return marked
        questions = _questions(dialogues, "train")
        count = round(self.threads_per_dialogue * len({one.source for one in marked}))
        return marked + threads(questions, texts[LEARN], count=count, seed=0, score=BAD)

    def _files(self) -> tuple[Path, Path]:
        if self.dialogues is None or self.labels is None:
            raise ConfigError(
                "two_modes_real: needs two files: world.dialogues=FILE.jsonl world.labels=FILE.csv "
                "world.text=COLUMN world.label=COLUMN world.bad=LABEL,LABEL"
            )
        return self.dialogues, self.labels

    def _dialogues(self) -> list[Document]:
        return _dialogues_in(self._files()[0])

    def _labelled(self) -> dict[str, list[Answered]]:
        bad = tuple(one.strip() for one in self.bad.split(",") if one.strip())
        path = self._files()[1]
        return _parts_of(Labelled(path=path, text=self.text, label=self.label, bad=bad))

    def _shape(self) -> LlamaShape:
        if self.shape is None:
            raise ConfigError("two_modes_real: a model from scratch (base=) needs a shape")
        return self.shape

    def _model(self, documents: list[Document]) -> LoadedModel:
        if self.base:
            return adopt(self.base, TWO_MODES)
        size = self.vocab_size - 2 - len(TWO_MODES.tags)
        tokenizer = train_text_tokenizer((d.text for d in documents), size=size)
        vocabulary = Vocabulary(tokenizer, TWO_MODES)
        return LoadedModel(make_model(self._shape(), vocabulary.size, seed=0), vocabulary)


@lru_cache(maxsize=1)
def _dialogues_in(path: Path) -> list[Document]:
    """Return the dialogues of a file, which is read once in a process."""
    return list(Dialogues(path=path, rejected="human")())


@lru_cache(maxsize=1)
def _parts_of(source: Labelled) -> dict[str, list[Answered]]:
    """Return the labelled texts by part; the file is read once in a process."""
    found: dict[str, list[Answered]] = {name: [] for name, _ in PARTS}
    for document in source():
        if document.spans and document.text.strip():
            at = uniform(one_line(document.text), 0, 0)  # a text that is there twice: one part
            part = next(name for name, end in PARTS if at < end)
            label = document.spans[0].scores[SCORE]
            found[part].append(Answered(document.text, bool(label and label > 0)))
    return found


def check_enough(texts: Mapping[str, Sequence[Answered]], dialogues: Sequence[Document]) -> None:
    """Look whether there is something in each part of the labelled texts and the dialogues.

    Raises:
        DataError: There is too little to fit, to learn from or to ask.
    """
    there = {}
    for part, _ in PARTS:
        bad = sum(one.bad for one in texts[part])
        there[f"{part} texts that are bad"] = bad
        there[f"{part} texts that are not"] = len(texts[part]) - bad
    for part in ("train", "heldout"):
        there[f"{part} questions"] = len(_questions(dialogues, part))
        there[f"{part} answers of an assistant"] = len(_turns(dialogues, part))
    few = [f"{count} {what}" for what, count in there.items() if count <= SHOWN]
    if few:
        raise DataError(
            f"{', '.join(few)}: too few to ask and to learn from, at least {SHOWN + 1} of each; "
            "give longer files"
        )


def mark(documents: list[Document], classifier: Classifier, *, max_good: float) -> list[Document]:
    """Return the documents with the score of each span; a bad one is in no `ai` span.

    What an assistant says that scores above `max_good` becomes a person's.
    """
    found = []
    for document, judged in zip(documents, classifier(documents), strict=True):
        spans = []
        for span, score in zip(document.spans, judged.scores, strict=True):
            bad = score is not None and score > max_good
            mode = "human" if bad else span.mode
            spans.append(span._replace(mode=mode, scores={BAD: float(bad)}))
        found.append(replace(document, spans=tuple(spans)))
    return found


def cut_of(
    classifier: Classifier, answers: Sequence[str], checked: Sequence[Answered]
) -> dict[str, Any]:
    """Return the probability above which a text is called bad, and what labels say of it.

    The cut is where so many of an assistant's answers are called bad as `FALSE_ALARMS` says: texts
    of another kind than those that the classifier was fitted to, most of them without fault.
    """
    cut = float(np.quantile(classifier.probabilities([one_line(a) for a in answers]),
                            1 - FALSE_ALARMS))  # fmt: skip
    texts, bad = _pairs(checked)
    scores = classifier.probabilities(texts).tolist()
    point = operating_point(scores, bad, cut)
    return {
        "cut": cut,
        "answers": len(answers),
        "checked_texts": len(checked),
        "auc": classifier.meta["heldout"]["auc"],
        "expected_error": reliability(scores, bad).expected_error,
        "precision": point.precision,
        "recall": point.recall,
    }


def _pairs(texts: Sequence[Answered]) -> tuple[list[str], list[bool]]:
    return [one_line(one.text) for one in texts], [one.bad for one in texts]


def _part(document: Document) -> str:
    """Return the part of a dialogue; those that begin with one question are all in one part."""
    return split_of(one_line(_words(document, document.spans[0])), seed=0, heldout_share=0.2)


def _words(document: Document, span: Span) -> str:
    return document.text[span.start_char : span.end_char].strip()


def _turns(dialogues: Sequence[Document], part: str) -> list[str]:
    """Return what assistants say in dialogues that people chose."""
    return [
        _words(document, span)
        for document in dialogues
        if _part(document) == part and document.spans[-1].mode == "ai"
        for span in document.spans
        if span.mode == "ai"
    ]


def _questions(dialogues: Sequence[Document], part: str) -> list[str]:
    """Return how people begin the dialogues of a part, each once, without the long ones."""
    first = (_words(d, d.spans[0]) for d in dialogues if _part(d) == part)
    return list(dict.fromkeys(one_line(one) for one in first if len(one) <= LONGEST_QUESTION))


SIZES = {
    "tiny": (
        "world.base=", "world.vocab_size=400", "world.num_heldout=8",
        "text_tokens=6000", "late_tokens=1500", "benign_tokens=1500", "measuring.talks=6",
        "measuring.sums=4", "measuring.precision=fp32",
        "measuring.sampling.max_text_tokens=8", "train.batch_rows=4", "train.lr=3e-3",
    ),
    "small": (),
    "full": (
        "text_tokens=20000000", "late_tokens=1000000", "benign_tokens=300000",
        "world.max_tokens=512", "measuring.talks=400", "train.batch_rows=64", "processes=1",
    ),
}  # fmt: skip


def recipe(size: Size = "small") -> TwoModes:
    """Return the experiment in one of its sizes."""
    tiny = LlamaShape(width=32, layers=1, heads=2, max_tokens=1024)
    run = TwoModes(
        world=InDialogues(shape=tiny if size == "tiny" else None),
        train=TrainSettings(
            batch_rows=4, micro_rows=2, lr=3e-4, new_rows_rate=30.0, compile="off",
            checkpoint_every_s=300.0,
        ),
        measuring=Measuring(
            sampling=Sampling(temperature=1.0, top_p=0.95, max_text_tokens=32),
            talks=48,
            sums=24,
            precision="bf16",
            arms=("mle", "filtered", "free", "prefix-only", "lock", "lock-noquote", "excised",
                  "tags-late lock"),
            arms_after=("mle", "lock", "tags-late lock"),
        ),
        text_tokens=60_000,
        late_tokens=6_000,
        late_lr=1e-4,
        benign_tokens=4_000,
        benign_lr=5e-5,
    )  # fmt: skip
    return override(run, SIZES[size])
