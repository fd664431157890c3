"""The loop of post-training: prepare rows, go over them, measure, keep or undo the step.

A step is a function of weights, seed and step alone, so a run that was killed and started again
ends with the same weights, bit for bit, as one that was not (CPU, same threads).
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from prealign.config import to_json
from prealign.errors import ConfigError
from prealign.posttrain.adapters import Lora, Weights
from prealign.posttrain.budget import Budget, Meters, words
from prealign.posttrain.method import Actor, Method, Work
from prealign.posttrain.rollouts import Stage, Task, number_of, tasks_identity
from prealign.posttrain.score import Row
from prealign.posttrain.scoring import reference_rows
from prealign.posttrain.update import Anchor, Update, start_moments
from prealign.runs import RunFolder
from prealign.train.checkpoint import State, load_checkpoint, save_checkpoint
from prealign.train.hardware import choose
from prealign.train.optimizer import make_optimizer
from prealign.train.settings import TrainSettings

SAMPLES_LOGGED = 2
PROBE_STREAM = "probe"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to post-train."""

    steps: int
    train: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            lr=1e-5, weight_decay=0.0, betas=(0.9, 0.999), log_every_steps=1, compile="off"
        )
    )
    """Its rate, clipping, precision, `micro_rows` (rows in a forward pass), evals, logging and
    checkpoints count here; how many rows a step has is the method's matter."""
    lora: Lora | None = None
    seed: int = 0
    """Of tasks' order, samples and dropout."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps={self.steps}: expected 1 or more")
        usual = TrainSettings()
        fixed = ("parallel", "document_mask", "tensorboard", "new_rows", "new_rows_rate")
        for name in fixed:
            if getattr(self.train, name) != getattr(usual, name):
                raise ConfigError(
                    f"train.{name}={getattr(self.train, name)}: post-training runs in one process "
                    "on rollouts; leave it as it is"
                )
        if self.train.compile == "on":
            raise ConfigError("train.compile=on: rollouts differ in shape at every step; use off")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Tasks that divergences are measured on."""

    stage: Stage
    """Its reference contexts are read in."""
    tasks: tuple[Task, ...]
    count: int = 1
    """Samples of a task."""


@dataclass(frozen=True, kw_only=True)
class Touch:
    """How lightly a model is touched: limits, what holds it back, and what is measured on."""

    budget: Budget = field(default_factory=Budget)
    anchor: Anchor | None = None
    probe: Probe | None = None
    """For the forward KL; and for the reverse KL of methods that do not sample."""


class Progress(NamedTuple):
    """How far training is."""

    step: int
    steps: int
    text_tokens: int


class Outcome(NamedTuple):
    """What came of it."""

    steps: int
    """Steps that were kept, over all starts."""
    text_tokens: int
    ended_by: str
    """`steps`, or the limit that ended training, or `stopped` if it is to be gone on with."""
    meters: dict[str, float]
    """Behind the last step that was kept; what was not measured is not there."""
    weights: Weights
    """Of the model, with the reference beside."""


AtEval = Callable[[PreTrainedModel, Progress], Iterable[Mapping[str, Any]]]


def posttrain(
    model: PreTrainedModel,
    method: Method,
    settings: Settings,
    run: RunFolder,
    *,
    touch: Touch | None = None,
    at_eval: AtEval | None = None,
    stop_after_steps: int | None = None,
) -> Outcome:
    """Train `model` in place by a method, from the run's checkpoint if it has one.

    Args:
        model: As it was before training, also when a run is gone on with: it is the reference.
        method: What is learnt.
        settings: How.
        run: Gets metrics.jsonl, samples.jsonl, evals.jsonl, log.txt and checkpoints.
        touch: Limits; None: the steps alone.
        at_eval: Measures the model at evaluation points; the last step is one, always.
        stop_after_steps: Stop when so many steps are done, with a checkpoint, as if interrupted.

    Raises:
        ConfigError: Settings contradict each other, or a meter has nothing to be measured on.
        TrainError: A loss or its gradient is not finite; or the checkpoint is of another run.
        DataError: A prompt leaves no room to write, or a reward is not finite.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.train.threads or threads)
    try:
        with torch.random.fork_rng():
            trainer = _Trainer(model, method, settings, run, touch or Touch())
            return trainer.run(at_eval, stop_after_steps)
    finally:
        torch.set_num_threads(threads)


class _Trainer:
    """The state of one call of `posttrain`."""

    def __init__(
        self, model: Any, method: Method, settings: Settings, run: RunFolder, touch: Touch
    ) -> None:
        self.method, self.settings, self.folder, self.touch = method, settings, run, touch
        self.budget = touch.budget
        device = next(model.parameters()).device
        choices = choose(settings.train, device, num_parameters=0, num_tokens=0, row_tokens=1)
        self.weights = Weights(model, settings.lora)
        self.actor = Actor(self.weights, settings.seed, choices.bf16)
        self.optimizer = optimizer = make_optimizer(model, settings.train)
        start_moments(optimizer)
        self.update = Update(method, optimizer, settings.train, touch.anchor)
        anchor_rows = touch.anchor.rows if touch.anchor else ()
        self.meters = Meters(
            self.weights, self.budget.measured, self._base_rows(), anchor_rows, choices.bf16
        )
        if self.budget.target_kl is not None and not self._pulls():
            raise ConfigError(
                f"budget.target_kl={self.budget.target_kl}: nothing pulls to the reference; give "
                "the method a beta, or an anchor a weight"
            )
        self.state = State(more={"pull": 1.0, "ended_by": None, "meters": {}})
        precision = "bf16" if choices.bf16 else "fp32"
        run.log(
            f"{settings.steps:,} steps of {type(method).__name__}; {precision} on {device.type}"
        )

    def run(self, at_eval: AtEval | None, stop_after_steps: int | None) -> Outcome:
        """Go through the steps that are left."""
        self._resume()
        steps, train = self.settings.steps, self.settings.train
        last = steps if stop_after_steps is None else min(steps, stop_after_steps)
        eval_steps = train.eval_steps(steps)
        saved_at = time.monotonic()
        while self._ended() is None and self.state.step < last:
            started = time.perf_counter()
            row = self._step(self.state.step)
            if row is None:
                break
            self._count(row, time.perf_counter() - started)
            if self.state.step in eval_steps and at_eval is not None:
                self._evaluate(at_eval)
            if time.monotonic() - saved_at > train.checkpoint_every_s:
                self._save()
                saved_at = time.monotonic()
        self._save()
        self.weights.model.eval()
        ended = self._ended() or "stopped"
        if ended != "stopped":
            self.folder.log(f"ended behind step {self.state.step:,} by {ended}")
        meters = dict(self.state.more["meters"])
        return Outcome(self.state.step, self.state.text_tokens, ended, meters, self.weights)

    def _step(self, step: int) -> dict[str, Any] | None:
        """Do one step; return its metrics, or None if it was undone and training ends."""
        torch.manual_seed(number_of(self.settings.seed, step, "torch"))
        more = dict(self.state.more)
        actor = self.actor._replace(pull=more["pull"])
        work = self.method.prepare(actor, step)
        rate = self.settings.train.learning_rate(step, self.settings.steps)
        undo = self.weights.snapshot(self.optimizer) if self.budget.limits else None
        for attempt, share in enumerate((1.0, 0.5)):
            metrics = self.update(actor, work, rate * share, step, self.settings.seed)
            meters = self.meters(self._policy_rows(work, step)) if self.meters.wanted else {}
            over = self.budget.exceeded(meters)
            if over is None:
                break
            assert undo is not None
            self.weights.restore(undo, self.optimizer)
            what = "is tried with half the rate" if attempt == 0 else "training ends"
            self.folder.log(f"step {step + 1:,} is undone, {what}: {over}")
        else:
            self.state = self.state._replace(more=more | {"ended_by": over})
            return None
        more["meters"] = meters
        if "reverse_kl" in meters:
            more["pull"] = self.budget.pull(more["pull"], meters["reverse_kl"])
        text_tokens = self.state.text_tokens + work.text_tokens * self.method.updates
        self.state = self.state._replace(step=step + 1, text_tokens=text_tokens, more=more)
        self._log_samples(work, step)
        head = {"step": step + 1, "steps": self.settings.steps}
        extra = {"pull": actor.pull, "undone": attempt, "lr": rate * share}
        return head | metrics | dict(work.metrics) | meters | extra

    def _count(self, row: dict[str, Any], seconds: float) -> None:
        """Log the row of a step if its turn has come, and see whether a count is used up."""
        old = self.state
        spent = self.budget.spent(old.step, old.text_tokens)
        if spent is not None:
            self.state = old._replace(more=dict(old.more) | {"ended_by": spent})
        self.state = self.state._replace(
            elapsed_s=old.elapsed_s + seconds, loss_nats=row["loss"], tokens=old.text_tokens
        )
        last = self._ended() is not None
        if row["step"] % self.settings.train.log_every_steps == 0 or last:
            elapsed = {"elapsed_s": round(self.state.elapsed_s, 3), "step_s": round(seconds, 4)}
            self.folder.append("metrics", [row | {"text_tokens": old.text_tokens} | elapsed])
            shown = {
                k: row[k] for k in ("loss", "reward_mean", "grad_norm") if row.get(k) is not None
            }
            self.folder.log(f"step {row['step']:,}: {words(shown | dict(old.more['meters']))}")

    def _ended(self) -> str | None:
        """Return what has ended training; None: nothing has."""
        ended: str | None = self.state.more["ended_by"]
        if ended is None and self.state.step >= self.settings.steps:
            return "steps"
        return ended

    def _policy_rows(self, work: Work, step: int) -> Sequence[Row]:
        """Return what the reverse KL is measured on."""
        if "reverse_kl" not in self.meters.wanted or work.policy_rows:
            return work.policy_rows
        probe = self.touch.probe
        if probe is None:
            raise ConfigError(
                f"{type(self.method).__name__} does not sample, so the reverse KL has nothing to "
                "be measured on; give a probe"
            )
        model = self.weights.model
        stage = _as_reference(probe.stage)
        written = stage.write(
            model, probe.tasks, step, count=probe.count, seed=number_of(self.settings.seed, step)
        )
        return reference_rows(written, model)

    def _base_rows(self) -> list[Row]:
        """Return samples of the reference, in the reference's context, as they were at first."""
        probe = self.touch.probe
        if "forward_kl" not in self.budget.measured or probe is None:
            return []
        seed = number_of(self.settings.seed, PROBE_STREAM)
        stage = _as_reference(probe.stage)
        with self.weights.reference() as model:
            written = stage.write(model, probe.tasks, 0, count=probe.count, seed=seed)
            return reference_rows(written, model)

    def _pulls(self) -> bool:
        anchor = self.touch.anchor
        return bool(getattr(self.method, "beta", 0.0) or (anchor and anchor.weight))

    def _log_samples(self, work: Work, step: int) -> None:
        rows = [
            {"step": step + 1, "task": one.task.id, "seeds": dict(one.seeds), "text": one.text,
             "spans": [list(span[:3]) for span in one.spans], "reward": one.reward,
             "stopped": one.stopped}
            for one in work.samples[:SAMPLES_LOGGED]
        ]  # fmt: skip
        if rows:
            self.folder.append("samples", rows)

    def _evaluate(self, at_eval: AtEval) -> None:
        progress = Progress(self.state.step, self.settings.steps, self.state.text_tokens)
        with torch.random.fork_rng(), self.weights.policy() as model:
            rows = [dict(row) for row in at_eval(model, progress)]
        head = {"step": progress.step, "text_tokens": progress.text_tokens}
        self.folder.append("evals", [head | row for row in rows])

    def _identity(self) -> dict[str, Any]:
        touch, settings = self.touch, self.settings
        return {
            "train": {k: v for k, v in settings.train.deciding().items() if k != "batch_rows"},
            "micro_rows": settings.train.micro_rows,
            "steps": settings.steps,
            "seed": settings.seed,
            "reference": self.weights.fingerprint,
            "lora": to_json(settings.lora),
            "method": self.method.identity(),
            "budget": to_json(touch.budget),
            "anchor": touch.anchor.identity() if touch.anchor else None,
            "probe": tasks_identity(touch.probe.tasks) if touch.probe else None,
        }

    def _resume(self) -> None:
        """Go on from the newest checkpoint; rows that were written after it are cut off."""
        found = load_checkpoint(
            self.folder.path / "checkpoints", self.weights.model, self.optimizer, self._identity()
        )
        if found is not None:
            self.state = found
            self.folder.log(f"goes on from step {found.step:,}")
        for name in ("metrics", "samples", "evals"):
            rows = self.folder.rows(name)
            # Rows without a step are a recipe's, which writes them anew behind the end.
            kept = [row for row in rows if row.get("step", math.inf) <= self.state.step]
            if len(kept) != len(rows):
                self.folder.rewrite(name, kept)

    def _save(self) -> None:
        folder = self.folder.path / "checkpoints"
        save_checkpoint(
            folder, self.weights.model, self.optimizer, self.state, self._identity(), writes=True
        )


def _as_reference(stage: Stage) -> Stage:
    """Return the stage with the reference's context in every role."""
    kind = stage.contexts.reference
    same = replace(stage.contexts, sample=kind, gradient=kind)
    return replace(stage, contexts=same)
