"""A comparison: arms that differ in tags and objective alone, trained on the same text.

Every arm of a seed sees the same documents in the same order, cut after the same text token; its
model starts from the same weights. Arms and seeds run in processes of their own, each with one
thread; each can be killed at any time and goes on when the command is given again.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from transformers import PreTrainedModel

from prealign.config import to_json
from prealign.errors import ConfigError, DataError
from prealign.evals.capability import loss_row, read_documents
from prealign.evals.samples import (
    Condition,
    judge,
    measure,
    real_writings,
    sample_row,
    write_samples,
)
from prealign.hub.markdown import code, escape
from prealign.models.card import Training
from prealign.models.create import LlamaShape, make_model
from prealign.models.files import save_model
from prealign.models.sample import Sampling
from prealign.recipes.arms import Arm, phases_of
from prealign.recipes.cards import policies_of, trained_card
from prealign.recipes.data import (
    CorpusSettings,
    Prepared,
    Prompt,
    bad_prompts,
    heldout_prompts,
    prepare,
    read_prepared,
)
from prealign.recipes.results import score_of, write_study
from prealign.recipes.workers import run_workers
from prealign.report.page import publish
from prealign.runs import RunFolder, open_run, stopwatch, write_atomic
from prealign.text.document import Document, Scorer
from prealign.train.loop import Progress, TrainOutcome, train
from prealign.train.settings import TrainSettings

Size = Literal["tiny", "small", "full"]
BAD_PROMPTS = 32
HELDOUT = (
    Condition(name="from the start"),
    Condition(name="after a bad prompt", prompts="bad"),
    Condition(name="after a prompt", prompts="heldout"),
)
"""Where samples start from, for the text itself."""


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How much is measured."""

    scorer: Scorer
    """Judges samples."""
    unit: str = "per character"
    hit_above: float = 0.0
    """A sample with a higher score counts as a hit."""
    sampling: Sampling
    samples: int = 512
    """Per condition, at the end."""
    curve_samples: int = 96
    """At each evaluation point before the end."""
    curve_bytes: int = 60_000
    """Held-out text read at each evaluation point before the end."""
    cut_lines: bool = True
    """Samples that ran out of tokens end with their last whole line."""
    parses: Callable[[str], bool] | None = None
    starts: Callable[[str], list[int]] | None = None
    """Where in a held-out text a prompt may begin; None: conditions that need prompts are not
    allowed."""
    prompt_lines: int = 6
    """Spans in a prompt, at most."""
    bad_prompt_lines: int = 4
    """Spans in a prompt of a bad style."""
    prompt_chars: int = 240


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Arms, trained for each seed, measured, and reported: call it with a folder."""

    title: str
    question: str
    corpus: CorpusSettings
    shape: LlamaShape
    train: TrainSettings
    measuring: Measuring
    arms: tuple[Arm, ...]
    text_tokens: int
    """Text tokens that each arm trains on."""
    seeds: int = 1
    first_seed: int = 0
    processes: int = 2
    """Arms trained at once, each with one thread."""
    threads: int = 1

    def __call__(self, out: Path) -> Path:
        """Run what is not done yet and return the path of the report."""
        return self.compare(out, self.prepare(out))

    def prepare(self, out: Path) -> Prepared:
        """Open the folder and make the corpus, tagged in every arm's way, or find it there."""
        say = speaker(Console(), open_study(out, self))
        prepared = prepare(self.corpus, out, say)
        for tagging in dict.fromkeys(arm.tagging for arm in self.arms):
            read_prepared(self.corpus, out, say, tagging)
        return prepared

    def compare(self, out: Path, prepared: Prepared) -> Path:
        """Train, measure and report on what `prepare` returned."""
        console = Console()
        study = open_study(out, self)
        study.rewrite("evals", measure_heldout(prepared, self.measuring, self.arms))
        jobs = [
            (f"{arm.name}-seed{seed}", train_and_measure, (self, out, arm.name, seed))
            for seed in range(self.first_seed, self.first_seed + self.seeds)
            for arm in self.arms
        ]
        write_study(
            out,
            title=self.title,
            question=self.question,
            score=score_of(self.measuring.scorer, self.measuring.unit),
            arms=[(arm.name, arm.conditions[0].name, arm.loss_tags[0]) for arm in self.arms],
            seeds=range(self.first_seed, self.first_seed + self.seeds),
            corpus=prepared.summary,
            vocabulary=prepared.vocabulary,
        )
        run_workers(jobs, out, processes=self.processes, threads=self.threads, console=console)
        return publish(out, console)


def train_and_measure(study: Comparison, out: Path, arm_name: str, seed: int) -> None:
    """Train one arm with one seed, measure it, and leave all in its run folder."""
    arm = next(arm for arm in study.arms if arm.name == arm_name)
    run = open_run(out / f"{arm.name}-seed{seed}", {"arm": to_json(arm), "seed": seed})
    if (run.path / "done.json").exists():
        return
    seconds = stopwatch(run)
    data = read_prepared(study.corpus, out, tagging=arm.tagging)
    model = make_model(study.shape, data.vocabulary.size, seed=seed)

    # Looking for them parses the held-out text; every evaluation goes on from the same ones.
    prompts = {c.name: prompts_for(c, data.heldout, study.measuring) for c in arm.conditions}

    def at_eval(model: PreTrainedModel, progress: Progress) -> list[dict[str, Any]]:
        small = smaller(data.heldout, study.measuring.curve_bytes)
        return measure_arm(
            model, data, study, arm, seed, prompts=prompts, heldout=small, curve=True
        )[0]

    outcome = train(
        model,
        phases_of(
            arm,
            data,
            seed=seed,
            text_tokens=study.text_tokens,
            row_tokens=study.shape.max_tokens,
            say=run.log,
        ),
        study.train,
        run,
        at_eval=at_eval,
    )
    save_model(
        run.path / "model", model, data.vocabulary,
        card=card(study, arm, seed, outcome, model), policies=policies_of(data.vocabulary),
    )  # fmt: skip
    rows, samples = measure_arm(
        model, data, study, arm, seed, prompts=prompts, heldout=data.heldout, curve=False
    )
    head = {"step": outcome.steps, "text_tokens": outcome.text_tokens, "final": True}
    curve = [row for row in run.rows("evals") if not row.get("final")]
    run.rewrite("evals", [*curve, *(head | row for row in rows)])
    run.rewrite("samples", samples)
    done = {"wall_s": seconds(), "parameters": sum(p.numel() for p in model.parameters())}
    write_atomic(run.path / "done.json", json.dumps(done | {"steps": outcome.steps}))


def measure_arm(
    model: PreTrainedModel,
    data: Prepared,
    study: Comparison,
    arm: Arm,
    seed: int,
    *,
    prompts: Mapping[str, list[Prompt]],
    heldout: list[Document],
    curve: bool,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return rows for evals.jsonl and for samples.jsonl; with `curve`, of the headline alone."""
    torch.set_num_threads(study.threads)
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    what = study.measuring
    for condition in arm.conditions[:1] if curve else arm.conditions:
        count = what.curve_samples if curve else what.samples
        writings = write_samples(
            model,
            data.vocabulary,
            condition,
            what.sampling,
            count=count,
            seed=seed,
            prompts=data.retagged(prompt.document for prompt in prompts[condition.name]),
            cut=what.cut_lines,
        )
        judged = judge(writings, what.scorer)
        rows += measure(judged, unit=what.unit, hit_above=what.hit_above, parses=what.parses)
        samples += [sample_row(writing) for writing in judged]
    for tags in arm.loss_tags[:1] if curve else arm.loss_tags:
        reading = read_documents(
            model,
            data.vocabulary,
            data.retagged(heldout),
            tags=tags,
            row_tokens=study.shape.max_tokens,
        )
        rows.append(loss_row(reading, condition=tags))
    return rows, samples


def prompts_for(condition: Condition, heldout: list[Document], what: Measuring) -> list[Prompt]:
    """Return the texts that come first under a condition; none if it asks for none.

    Raises:
        ConfigError: The measuring does not say where a prompt may begin.
        DataError: The held-out text has no such stretch.
    """
    if condition.prompts == "none":
        return []
    if condition.prompts == "bad":
        found = bad_prompts(
            heldout,
            lines=what.bad_prompt_lines,
            max_chars=what.prompt_chars,
            count=BAD_PROMPTS,
        )
    elif what.starts is None:
        raise ConfigError(f"condition {condition.name!r}: needs measuring.starts")
    else:
        found = heldout_prompts(
            heldout,
            starts=what.starts,
            lines=what.prompt_lines,
            max_chars=what.prompt_chars,
            count=what.samples,
        )
    if not found:
        raise DataError(
            f"condition {condition.name!r}: the held-out text has no stretch of that kind of at "
            f"most {what.prompt_chars} characters; hold out more (corpus.heldout_bytes)"
        )
    return found


def measure_heldout(data: Prepared, what: Measuring, arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return what the held-out text itself scores, from where samples start and cut like them."""
    rows = []
    asked = {condition.prompts for arm in arms for condition in arm.conditions}
    for condition in (one for one in HELDOUT if one.prompts in asked):
        if condition.prompts == "none":
            pairs = [("", document.text) for document in data.heldout]
        else:
            pairs = [
                (prompt.document.text, prompt.origin.text[prompt.end_char :])
                for prompt in prompts_for(condition, data.heldout, what)
            ]
        writings = real_writings(
            condition.name,
            pairs,
            data.vocabulary,
            max_text_tokens=what.sampling.max_text_tokens,
            cut=what.cut_lines,
        )
        rows += measure(
            judge(writings, what.scorer),
            unit=what.unit,
            hit_above=what.hit_above,
            parses=what.parses,
        )
    return [{**row, "final": True} for row in rows]


def smaller(documents: list[Document], limit: int) -> list[Document]:
    """Return the first documents, up to `limit` bytes of text; one at least."""
    chosen: list[Document] = []
    for document in documents:
        chosen.append(document)
        limit -= len(document.text.encode())
        if limit < 0:
            break
    return chosen


def open_study(out: Path, study: Comparison) -> RunFolder:
    """Return the folder of the whole comparison; more seeds may be asked of a finished one."""
    settings = to_json(study)
    for key in ("seeds", "first_seed", "processes", "threads"):
        del settings[key]
    return open_run(out, settings, recipe=study.title)


def speaker(console: Console, run: RunFolder) -> Callable[[str], None]:
    """Return a function that says a line on the console and in the run's log."""

    def say(line: str) -> None:
        console.print(line, highlight=False)
        run.log(line)

    return say


def card(study: Comparison, arm: Arm, seed: int, outcome: TrainOutcome, model: Any) -> str:
    """Return the text of the model's card."""
    objectives = ", then ".join(code(type(stage.objective).__name__) for stage in arm.stages)
    training = Training(
        settings={"seed": seed, "arm": to_json(arm), "train": to_json(study.train)},
        text_tokens=outcome.text_tokens,
        steps=outcome.steps,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
    lead = (
        f"{escape(study.question)}\n\nTrained with `prealign`; objective {objectives}, "
        f"{'with' if arm.tagged else 'without'} tags in the text."
    )
    return trained_card(f"{study.title}: {arm.name}, seed {seed}", lead, training)
