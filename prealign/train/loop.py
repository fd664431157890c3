"""The one training loop. What differs between trainings is the rows and the objective.

It is deterministic: which rows a step has depends on the step alone, so a run that was killed and
started again ends with the same weights, bit for bit, as one that was not (CPU, same threads).
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prealign.config import to_json
from prealign.errors import ConfigError, TrainError
from prealign.objectives.batch import Loss, Objective, TokenBatch
from prealign.runs import RunFolder
from prealign.tokens.pack import PackedRows
from prealign.train.batches import Rows, data_identity, make_batch, num_steps, rows_of_step
from prealign.train.checkpoint import State, load_checkpoint, save_checkpoint
from prealign.train.display import display
from prealign.train.hardware import choose
from prealign.train.logp import Scalar, TargetLogp, has_attention, value_head, with_attention
from prealign.train.optimizer import (
    gradients,
    last_rows_faster,
    make_optimizer,
    norm_of,
    scale_and_clip,
)
from prealign.train.parallel import (
    Group,
    gradients_apart,
    in_one_piece,
    parallel_group,
    spread,
    summed,
)
from prealign.train.settings import TrainSettings
from prealign.train.tensorboard import EventLog

RUNNING_DECAY = 0.98
SPIKES_COUNT_AFTER_STEPS = 50
"""Or after the warm-up, if that is longer."""


class Progress(NamedTuple):
    """How far training is."""

    step: int
    """Steps done."""
    steps: int
    """Steps in all."""
    text_tokens: int
    """Text tokens that were targets so far."""


class TrainOutcome(NamedTuple):
    """What came of it."""

    steps: int
    """Steps done, over all starts."""
    text_tokens: int
    """Text tokens that were targets."""
    loss_nats: float | None
    """Of the last step; None if nothing counted in it."""


class Around(Protocol):
    """What parts of steps are computed under; a frozen dataclass, so that a run knows it."""

    def __call__(
        self, model: PreTrainedModel, batch: TokenBatch, loss: Callable[[], Loss]
    ) -> contextlib.AbstractContextManager[None]:
        """Return what the loss of a part is computed inside of; it may compute it before."""


class Phase(NamedTuple):
    """A stretch of training with one objective on some rows."""

    objective: Objective
    data: Rows
    scalar: Scalar | None = None
    """How a tag of the rows says a number; None: all tags are tags."""
    around: Around | None = None
    """What its parts are computed under, such as an attack on activations, which keeps the model
    from being compiled, and to one process; None: as it is."""


AtEval = Callable[[PreTrainedModel, Progress], Iterable[Mapping[str, Any]]]
"""Measures the model, which is under `eval()`, and returns rows for evals.jsonl. Under torchrun
every process calls it, and must do the same; the rows of rank 0 are kept."""


def train(
    model: PreTrainedModel,
    phases: Sequence[Phase],
    settings: TrainSettings,
    run: RunFolder,
    *,
    at_eval: AtEval | None = None,
    stop_after_steps: int | None = None,
) -> TrainOutcome:
    """Train `model` in place on every row once, from the run's checkpoint if it has one.

    One schedule of the learning rate and one optimizer go through all phases.

    Under `parallel="fsdp2"` the model is left in shards: its weights are in the newest checkpoint,
    and `prealign.train.checkpoint.load_weights` puts them into a whole model.

    Args:
        model: A causal language model of transformers, on any device.
        phases: What is learnt, one after the other; most trainings have one. A phase ends with a
            step of its own, which may lack rows.
        settings: How.
        run: Gets metrics.jsonl, evals.jsonl, log.txt and checkpoints.
        at_eval: Called at evaluation points; the last point is the end, always.
        stop_after_steps: Stop when so many steps are done, with a checkpoint, as if interrupted.

    Raises:
        ConfigError: Rows do not divide among processes and passes, there is no phase, or their
            rows differ in length.
        TrainError: The loss or its gradient is not finite, or the loss has jumped; the state
            before that step is in the newest checkpoint. Or the checkpoint is of another run.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads or threads)
    try:
        wants_value = any(getattr(phase.objective, "wants_value", False) for phase in phases)
        with (
            parallel_group(settings.parallel) as group,
            value_head(model, wanted=wants_value),
        ):
            trainer = _Trainer(model, phases, settings, run, group)
            with with_attention(model, trainer.attention):
                outcome = trainer.run(at_eval, stop_after_steps)
            trainer.close()
            del trainer
            return outcome
    finally:
        torch.set_num_threads(threads)


class _Trainer:
    """The state of one call of `train`."""

    def __init__(
        self,
        model: PreTrainedModel,
        phases: Sequence[Phase],
        settings: TrainSettings,
        run: RunFolder,
        group: Group,
    ) -> None:
        self.phases, self.settings = tuple(phases), settings
        self.folder, self.group = run, group
        self.model = model.to(group.device)  # type: ignore[arg-type]
        self.steps_of = [num_steps(phase.data, settings.batch_rows) for phase in phases]
        self.steps = sum(self.steps_of)
        self.micro_rows = _micro_rows(settings, group)
        data_are = [data_identity(phase.data) for phase in phases]
        row_tokens = _row_tokens(data_are)
        choices = choose(
            settings,
            group.device,
            num_parameters=sum(p.numel() for p in model.parameters()),
            num_tokens=sum(data["num_rows"] for data in data_are) * row_tokens // group.size,
            row_tokens=row_tokens,
        )
        self.attention = choices.attention if has_attention(model, "sdpa") else None
        logp = TargetLogp(model, bf16=choices.bf16, document_mask=settings.document_mask)
        around = any(phase.around is not None for phase in phases)
        if around and settings.parallel != "none":
            raise ConfigError(
                f"train.parallel={settings.parallel}: a phase with something around its parts runs "
                "in one process; use parallel=none"
            )
        if choices.compiled and not around:
            logp.compile(dynamic=False)
        self.logp = spread(logp, model, settings.parallel)
        self.optimizer = make_optimizer(self.logp, settings)
        self.identity = {
            "train": settings.deciding(),
            "phases": [
                {"objective": to_json(phase.objective), "data": data}
                | ({"scalar": phase.scalar._asdict()} if phase.scalar else {})
                | ({"around": to_json(phase.around)} if phase.around else {})
                for phase, data in zip(phases, data_are, strict=True)
            ],
        }
        self.state = State()
        self.unlogged_tokens, self.unlogged_s = 0, 0.0
        self.events = EventLog(run.path) if settings.tensorboard and group.writes else None
        if group.writes:
            rows = f"{settings.batch_rows} rows of {row_tokens} tokens"
            processes = f"{group.size} x {torch.get_num_threads()} threads on {group.device.type}"
            run.log(f"{self.steps:,} steps of {rows}; {processes}; {choices.words}")

    def run(self, at_eval: AtEval | None, stop_after_steps: int | None) -> TrainOutcome:
        """Go through the steps that are left."""
        self._resume()
        last = self.steps if stop_after_steps is None else min(self.steps, stop_after_steps)
        eval_steps = self.settings.eval_steps(self.steps)
        saved_at = time.monotonic()
        self.model.train()
        shows = display(
            self.folder, done=self.state.step, steps=self.steps, writes=self.group.writes
        )
        with shows as show:
            for step in range(self.state.step, last):
                started = time.perf_counter()
                row, tokens = self._step(step)
                show(self._count(row, tokens, time.perf_counter() - started))
                if step + 1 in eval_steps and at_eval is not None:
                    self._evaluate(at_eval)
                due = time.monotonic() - saved_at > self.settings.checkpoint_every_s
                if step + 1 == last or self._agreed(due):
                    self._save()
                    saved_at = time.monotonic()
        self.model.eval()
        return TrainOutcome(self.state.step, self.state.text_tokens, self.state.loss_nats)

    def close(self) -> None:
        """Let go of what holds the process group."""
        if self.events:
            self.events.close()
        del self.logp, self.optimizer

    def _step(self, step: int) -> tuple[dict[str, Any], tuple[int, int]]:
        """Do one step; return its row of metrics, and its targets and text tokens."""
        sums, names = self._backward(step)
        grads = gradients(self.optimizer)
        norm = norm_of(grads).to(sums.device).double()
        # The one wait for the device in a step.
        *numbers, norm_ = torch.cat([summed(sums, self.group), norm[None]]).tolist()
        means = {
            name: total / weight if weight else None
            for name, total, weight in zip(names, numbers[2::2], numbers[3::2], strict=True)
        }
        targets, text_tokens, weight = int(numbers[0]), int(numbers[1]), numbers[3]
        # Gradients are of sums over targets, and averaged over processes.
        scale = self.group.size / (weight or 1.0)
        loss, norm_ = means["loss_nats"], norm_ * scale
        rate = self.settings.learning_rate(step, self.steps)
        self._check(step, loss, norm_)
        scale_and_clip(grads, scale, norm_ / scale, self.settings.clip_norm)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        rows, rows_rate = self.settings.new_rows, self.settings.new_rows_rate
        with last_rows_faster(self.model, rows, rows_rate):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        row = {"step": step + 1, "steps": self.steps, **means, "lr": rate, "grad_norm": norm_}
        return row, (targets, text_tokens)

    def _backward(self, step: int) -> tuple[Tensor, list[str]]:
        """Add up the gradients of a step's parts.

        Returns:
            Sums over this process's parts, float64: targets, text tokens, then a total and a weight
            for each of the names, the first of which is the loss; and the names.
        """
        phase, steps, at = self._phase_of(step)
        rows = rows_of_step(at, steps, self.settings.batch_rows)
        own = rows[self.group.rank :: self.group.size]
        starts = range(0, len(own), self.micro_rows)
        sums: list[Tensor] = []
        names: list[str] = []
        for start in starts:
            part = phase.data.rows(own[start : start + self.micro_rows])
            batch = make_batch(part, self.group.device)
            loss_of = partial(self._loss, phase, part, batch)
            around: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
            if phase.around is not None:
                around = phase.around(self.model, batch, loss_of)
            with gradients_apart(self.logp, last=start == starts[-1]), around:
                loss = loss_of()
                total = loss.value * loss.weight
                total.backward()
            names = ["loss_nats", *loss.metrics]
            means = [(total.detach(), loss.weight), *loss.metrics.values()]
            numbers = [*_counts(batch), *(number for mean in means for number in mean)]
            sums.append(torch.stack([number.double() for number in numbers]))
        return torch.stack(sums).sum(0), names

    def _loss(self, phase: Phase, part: PackedRows, batch: TokenBatch) -> Loss:
        """Return the loss of a part of a step."""
        logp_BL, value_BL = self.logp(
            batch.ids_BL,
            batch.targets_BL,
            batch.document_BL,
            _scalar_of(phase, part, self.group.device),
        )
        return phase.objective(logp_BL, batch._replace(value_BL=value_BL))

    def _phase_of(self, step: int) -> tuple[Phase, int, int]:
        """Return the phase of a step, its number of steps, and the step counted within it."""
        for phase, steps in zip(self.phases, self.steps_of, strict=True):
            if step < steps:
                return phase, steps, step
            step -= steps
        raise IndexError(step)

    def _check(self, step: int, loss: float | None, norm: float) -> None:
        """Stop before a step that would do harm."""
        if not (math.isfinite(norm) and math.isfinite(loss or 0.0)):
            self._stop(step, f"the loss is {loss}, the norm of its gradient {norm}")
        settings, mean = self.settings, self.state.running_loss
        # Another objective may have another scale: the running mean begins anew with each phase.
        at = self._phase_of(step)[2]
        calm = at >= max(SPIKES_COUNT_AFTER_STEPS, settings.warmup_steps(self.steps))
        if settings.spike_factor is None or loss is None or mean is None or not calm:
            return
        if loss > settings.spike_factor * mean > 0:
            what = (
                f"the loss is {loss:.4g}, more than train.spike_factor={settings.spike_factor:g} "
                f"times its running mean of {mean:.4g}"
            )
            self._stop(step, what)

    def _stop(self, step: int, what: str) -> None:
        self._save()
        raise TrainError(
            f"{self.folder.path}: step {step + 1}: {what}; stopped with the state before this step "
            f"in checkpoints/. Start again in another folder with a smaller train.lr (it is "
            f"{self.settings.lr:g}) or a smaller train.clip_norm, or look at the data of this step"
        )

    def _count(
        self, row: dict[str, Any], tokens: tuple[int, int], seconds: float
    ) -> dict[str, Any]:
        """Add a step to the state, log its row if its turn has come, and return it whole."""
        old, loss = self.state, row["loss_nats"]
        first = self._phase_of(old.step)[2] == 0
        mean = None if first else old.running_loss
        if loss is not None:
            mean = loss if mean is None else RUNNING_DECAY * mean + (1 - RUNNING_DECAY) * loss
        self.state = State(
            step=row["step"],
            tokens=old.tokens + tokens[0],
            text_tokens=old.text_tokens + tokens[1],
            elapsed_s=old.elapsed_s + seconds,
            loss_nats=loss,
            running_loss=mean,
        )
        self.unlogged_tokens += tokens[0]
        self.unlogged_s += seconds
        row |= {
            "tokens": self.state.tokens,
            "text_tokens": self.state.text_tokens,
            "tokens_per_s": round(self.unlogged_tokens / self.unlogged_s, 1),
            "elapsed_s": round(self.state.elapsed_s, 3),
        }
        if row["step"] % self.settings.log_every_steps == 0 or row["step"] == self.steps:
            self.unlogged_tokens, self.unlogged_s = 0, 0.0
            if self.group.writes:
                self.folder.append("metrics", [row])
            if self.events:
                self.events.add(row)
        return row

    def _evaluate(self, at_eval: AtEval) -> None:
        """Measure the model as it is for use; all is put back as it was, random numbers too."""
        progress = Progress(self.state.step, self.steps, self.state.text_tokens)
        training = [module for module in self.model.modules() if module.training]
        own_attention = "sdpa" if self.attention else None
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng())
            stack.enter_context(in_one_piece(self.logp))
            stack.enter_context(with_attention(self.model, own_attention))
            self.model.eval()
            rows = list(at_eval(self.model, progress))
        for module in training:
            module.training = True
        if self.group.writes:
            head = {"step": progress.step, "text_tokens": progress.text_tokens}
            self.folder.append("evals", [head | dict(row) for row in rows])

    def _resume(self) -> None:
        """Go on from the newest checkpoint; rows that were written after it are cut off."""
        folder = self.folder.path / "checkpoints"
        state = load_checkpoint(folder, self.model, self.optimizer, self.identity)
        if state is not None:
            self.state = state
        if not self.group.writes:
            return
        if state is not None:
            self.folder.log(f"goes on from step {state.step:,}")
        for name in ("metrics", "evals"):
            rows = self.folder.rows(name)
            # Rows without a step are a recipe's, which writes them anew behind the end.
            kept = [row for row in rows if row.get("step", math.inf) <= self.state.step]
            if len(kept) != len(rows):
                self.folder.rewrite(name, kept)

    def _agreed(self, due: bool) -> bool:
        """Return whether any process thinks so: clocks differ, and saving takes all of them."""
        if self.group.size == 1:
            return due
        asked = torch.tensor([int(due)], device=self.group.device)
        return bool(summed(asked, self.group).item())

    def _save(self) -> None:
        folder = self.folder.path / "checkpoints"
        save_checkpoint(
            folder, self.model, self.optimizer, self.state, self.identity, writes=self.group.writes
        )


def _row_tokens(data_are: Sequence[Mapping[str, int]]) -> int:
    """Return the length of every phase's rows."""
    found = {data["row_tokens"] for data in data_are}
    if len(found) != 1:
        raise ConfigError(
            f"{len(data_are)} phases with rows of {sorted(found)} tokens: give one phase or more, "
            "all with rows of one length"
        )
    return found.pop()


def _scalar_of(
    phase: Phase, rows: PackedRows, device: torch.device
) -> tuple[Tensor, Tensor] | None:
    """Return what `TargetLogp` is told of the phase's scalar tag."""
    if phase.scalar is None:
        return None
    ids_2 = torch.tensor([phase.scalar.low_id, phase.scalar.high_id], device=device)
    return ids_2, phase.scalar.places(rows).to(device)


def _counts(batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Return how many targets there are besides padding, and how many of them are text."""
    real_BL = batch.text_BL | batch.tag_BL | batch.end_BL
    return real_BL.sum(), batch.text_BL.sum()


def _micro_rows(settings: TrainSettings, group: Group) -> int:
    """Return how many rows of a process go through the model at once."""
    own, rest = divmod(settings.batch_rows, group.size)
    micro = min(settings.micro_rows or own, own)
    if rest or own % micro:
        raise ConfigError(
            f"train.batch_rows={settings.batch_rows}, train.micro_rows={settings.micro_rows}: the "
            f"rows must divide among {group.size} processes, and those of one into passes of "
            "micro_rows, as every pass has the same shape"
        )
    return micro
