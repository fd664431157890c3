"""A corpus made by a pipeline of steps: some ask a language model, some only look at shards.

Each step leaves a folder of shards inside `out`, with provenance and a summary of its own; the
corpus is what no later step has taken. Run again, it goes on where it was: what was answered is
never asked again.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard, cast

from rich.console import Console

from prealign.ask.answer import BudgetSpent, Writer
from prealign.ask.kept import KeptAnswers
from prealign.corpora.refine.folder import Summary, check_finished, records, refine
from prealign.corpora.refine.step import Refining
from prealign.corpora.synthesis.folder import Report
from prealign.corpora.synthesis.rate import Rate
from prealign.corpora.synthesis.run import Asking, synthesize
from prealign.corpora.synthesis.step import Item, Step, items_of
from prealign.corpora.synthesis.task import SynthesizeTask
from prealign.corpora.synthesis.write import Band, by_band
from prealign.errors import ConfigError, MissingDependency, PrealignError, RunError
from prealign.runs import write_atomic
from prealign.text.document import Document
from prealign.text.shards import shard_files

try:
    from datatrove.executor import LocalPipelineExecutor
except ImportError:
    LocalPipelineExecutor = None


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which documents a step is about: those in a band of `by_band`, by their worst score."""

    band: Band
    score: str
    rephrase_above: float = 0.1
    refuse_above: float = 0.7

    def __call__(self, document: Document) -> bool:
        """Return whether a document is in the band."""
        bounds = {"rephrase_above": self.rephrase_above, "refuse_above": self.refuse_above}
        return bool(by_band([document], score=self.score, **bounds)[self.band])


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step with what it reads."""

    name: str
    """Of its folder."""
    step: Step | Refining
    takes: tuple[Path, ...] = ()
    """Folders of shards; those without a path are of earlier stages."""
    grid: Callable[[], Iterator[Item]] | None = None
    """What there is to write about, for a step that reads no documents."""
    chosen: Chosen | None = None
    """Which documents it asks about; None: all."""
    copies: int = 1
    """Documents that are wanted of each."""
    writers: tuple[Writer, ...] = ()
    """The model that is asked, at one or more places; none: the step asks nobody."""


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """The pipeline; call it with a folder.

    Raises:
        ConfigError: There are no stages, two have one name, there is a cap on the cost and no
            price, or a number is out of its range.
    """

    stages: tuple[Stage, ...]
    asking: Asking = field(default_factory=Asking)
    """Its `max_tokens` is for all stages together."""
    max_cost: float | None = None
    """Like `max_tokens`, in the unit of `asking.price_per_million`."""
    seed: int = 0
    tasks: int = 1
    """Processes that ask, each as many questions at once as `asking` says; for several endpoints or
    GPUs. More than 1 needs datatrove."""
    shard_items: int = 1000
    retry_failed: bool = False

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"steps {names}: expected one or more, of different names")
        price = self.asking.price_per_million
        if price is not None and not 0 <= price < math.inf:
            raise ConfigError(f"price_per_million={price}: must be 0 or more, and finite")
        if self.max_cost is not None and not price:
            raise ConfigError(
                f"max_cost={self.max_cost}: needs price_per_million, the price of a million tokens"
            )
        if self.max_cost is not None and not 0 < self.max_cost < math.inf:
            raise ConfigError(f"max_cost={self.max_cost}: must be above 0, and finite")
        if self.tasks < 1:
            raise ConfigError(f"tasks={self.tasks}: must be at least 1")
        places = max(len(stage.writers) for stage in self.stages)
        if places > self.tasks:
            raise ConfigError(
                f"the writer is at {places} places, and tasks={self.tasks}: give tasks={places}, "
                "so that each place is asked"
            )
        if self.tasks > 1 and LocalPipelineExecutor is None:
            raise MissingDependency(
                'more than one task needs the package datatrove: pip install "prealign[scale]"'
            )

    @property
    def max_tokens(self) -> int | None:
        """Tokens that all stages may use together, by both caps."""
        caps = [] if self.asking.max_tokens is None else [self.asking.max_tokens]
        if self.max_cost is not None and self.asking.price_per_million:
            caps.append(int(self.max_cost / self.asking.price_per_million * 1e6))
        return min(caps, default=None)

    @property
    def corpus(self) -> tuple[str, ...]:
        """The stages that no later one takes."""
        taken = {str(path) for stage in self.stages for path in stage.takes}
        return tuple(stage.name for stage in self.stages if stage.name not in taken)

    def __call__(self, out: Path, *, console: Console | None = None) -> list[Path]:
        """Run all stages and return the folders of the corpus.

        Raises:
            BudgetSpent: The cap was reached; with more, the same call goes on.
            RunError: A folder holds another run, or a task failed.
            PrealignError: What the steps raise.
        """
        console = console or Console(stderr=True)
        began_s = time.monotonic()
        summaries: dict[str, Any] = {}
        for number, stage in enumerate(self.stages, start=1):
            done = self._run(stage, out)
            summaries[stage.name] = vars(done) if isinstance(done, Report) else _brief(done)
            console.print(
                f"{number}/{len(self.stages)} {stage.name}: {_line(done)}",
                highlight=False, markup=False, soft_wrap=True,
            )  # fmt: skip
        tokens = sum(self._spent(stage, out) for stage in self.stages)
        price = self.asking.price_per_million
        said: dict[str, Any] = {"stages": summaries, "corpus": self.corpus, "tokens": tokens}
        said |= {} if price is None else {"cost": tokens * price / 1e6}
        write_atomic(out / "summary.json", json.dumps(said, indent=1) + "\n")
        cost = "" if price is None else f", cost {tokens * price / 1e6:.2f}"
        folders = [out / name for name in self.corpus]
        console.print(
            f"{', '.join(map(str, folders))}: {tokens:,} tokens{cost}, "
            f"{time.monotonic() - began_s:.0f} s",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip
        return folders

    def _run(self, stage: Stage, out: Path) -> Report | Summary:
        takes = [self._at(path, out) for path in stage.takes]
        folder = out / stage.name
        if _refines(stage.step):
            return refine(stage.step, takes, folder, progress=self.asking.progress)
        task = SynthesizeTask(
            step=cast(Step, stage.step),
            items=partial(items_for, stage, tuple(takes)),
            writers=stage.writers or (Nobody(),),
            out=folder,
            seed=self.seed,
            asking=replace(self.asking, max_tokens=self._left(stage, out)),
            shard_items=self.shard_items,
        )
        if self.retry_failed and (folder / "summary.json").exists():
            return synthesize(
                task.step, task.items(), task.writers[0], folder, seed=self.seed,
                asking=task.asking, shard_items=self.shard_items, retry_failed=True,
            )  # fmt: skip
        if self.tasks > 1 and not (folder / "summary.json").exists():
            _execute(task, self.tasks, out / f".{stage.name}.logs")
        return task.finish()

    def _at(self, path: Path, out: Path) -> Path:
        return out / path if str(path) in {stage.name for stage in self.stages} else path

    def _spent(self, stage: Stage, out: Path) -> int:
        files = [out / stage.name / "answers.sqlite"]
        files += (out / f".{stage.name}.tasks").glob("*-of-*/answers.sqlite")
        return sum(KeptAnswers(file).tokens for file in files)

    def _left(self, stage: Stage, out: Path) -> int | None:
        """Return the tokens that a stage's own answers may have; None: no bound."""
        cap = self.max_tokens
        if cap is None:
            return None
        left = cap - sum(self._spent(other, out) for other in self.stages if other is not stage)
        if left < 1 and stage.writers and not (out / stage.name / "summary.json").exists():
            raise BudgetSpent(
                f"synthesis: {cap - left:,} tokens were used before {stage.name}, the cap is "
                f"{cap:,}; what was answered is kept in {out}: give it more and run again"
            )
        return max(left, 1)


@dataclass(frozen=True)
class Nobody:
    """Stands for the writer of a step that asks nothing."""

    name: str = "nobody"

    def __call__(self, prompt: str, *, seed: int | None = None) -> Any:
        """Refuse: there is nobody to ask.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("a step asks a model, and no writer is named; give writer.url or folder")


def items_for(stage: Stage, takes: Sequence[Path]) -> Iterator[Item]:
    """Yield the items of a stage that asks, the same each time.

    Those of documents keep the slots that the documents were written for, such as the persona;
    documents that are rated also keep as slots the step, the model, the prompts and the parent that
    they were written by and from.

    Raises:
        DataError: A folder is not finished, or a document that is to be chosen has no score.
        RunError: No document is chosen.
    """
    if stage.grid is not None:
        yield from stage.grid()
        return
    found = False
    for folder in takes:
        check_finished(folder)
        for shard in shard_files(folder):
            for document, row in records(shard):
                if stage.chosen is not None and not stage.chosen(document):
                    continue
                found = True
                own = dict(row.get("slots") or {})
                if isinstance(stage.step, Rate):  # the document stays the same one
                    source = document.source or document.id
                    yield Item(document.id, _written(row) | own, document, source)
                else:
                    for item in items_of([document], stage.step.name, stage.copies):
                        yield replace(item, slots=own)
    if not found:
        what = f" in the band {stage.chosen.band!r}" if stage.chosen else ""
        raise RunError(f"{stage.name}: there are no documents{what} to ask about")


def _written(row: Mapping[str, Any]) -> dict[str, str]:
    """Return where a document comes from, as its line of provenance says.

    Empty: nobody has synthesised it, or it was rated before, and its slots say where it comes from.
    """
    if not {"step", "model", "prompts"} <= row.keys() or row.get("parent") == row["id"]:
        return {}
    found = {"step": row["step"], "model": row["model"], "prompts": " ".join(row["prompts"])}
    return found | ({"parent": row["parent"]} if row.get("parent") else {})


def _refines(step: Step | Refining) -> TypeGuard[Refining]:
    return hasattr(step, "look")


def _execute(task: SynthesizeTask, tasks: int, logs: Path) -> None:
    """Let processes of datatrove's local executor ask; what they leave undone, `finish` does."""
    try:
        LocalPipelineExecutor(
            [task], tasks=tasks, workers=tasks, logging_dir=str(logs), skip_completed=False
        ).run()
    except PrealignError:
        raise
    except RuntimeError as error:
        raise RunError(
            f"{task.out.name}: a task failed ({error}); see {logs}, and run again to go on"
        ) from error


def _brief(summary: Summary) -> dict[str, Any]:
    return {name: value for name, value in vars(summary).items() if name != "samples"}


def _line(done: Report | Summary) -> str:
    return str(done).removeprefix(f"{done.step}: ") if isinstance(done, Summary) else str(done)
