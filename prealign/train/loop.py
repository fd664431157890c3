"""The one training loop. What differs between trainings is the rows and the objective.

It is deterministic: which rows a step has depends on the step alone, so a run that was killed and
started again ends with the same weights, bit for bit, as one that was not (CPU, same threads).
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import Tensor, nn
from transformers import PreTrainedModel

from prealign.config import fingerprint
from prealign.errors import TrainError
from prealign.objectives.batch import Objective
from prealign.runs import RunFolder
from prealign.train.batches import Rows, make_batch, num_steps, rows_of_step
from prealign.train.checkpoint import State, load_checkpoint, save_checkpoint
from prealign.train.logp import TargetLogp
from prealign.train.parallel import Group, parallel_group, spread, summed
from prealign.train.settings import TrainSettings, uses_bf16, why_compiled
from prealign.train.tensorboard import EventLog

RUNNING_DECAY = 0.98
SPIKES_COUNT_AFTER = 50


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
    loss_nats: float
    """Of the last step."""


AtEval = Callable[[PreTrainedModel, Progress], Iterable[Mapping[str, Any]]]
"""Measures the model, which is under `eval()`, and returns rows for evals.jsonl."""


def train(
    model: PreTrainedModel,
    objective: Objective,
    data: Rows,
    settings: TrainSettings,
    run: RunFolder,
    *,
    at_eval: AtEval | None = None,
    stop_after_steps: int | None = None,
) -> TrainOutcome:
    """Train `model` in place on every row once, from the run's checkpoint if it has one.

    Args:
        model: A causal language model of transformers, on any device.
        objective: The loss.
        data: The rows.
        settings: How.
        run: Gets metrics.jsonl, evals.jsonl, log.txt and checkpoints.
        at_eval: Called at evaluation points; the last point is the end, always.
        stop_after_steps: Stop early, with a checkpoint, as if interrupted.

    Raises:
        TrainError: The loss or its gradient is not finite, or the loss has jumped; the state
            before that step is in the newest checkpoint.
    """
    with parallel_group(settings.parallel) as group:
        trainer = _Trainer(model, objective, data, settings, run, group)
        outcome = trainer.run(at_eval, stop_after_steps)
        trainer.close()
        del trainer
        return outcome


class _Trainer:
    """The state of one call of `train`."""

    def __init__(
        self,
        model: PreTrainedModel,
        objective: Objective,
        data: Rows,
        settings: TrainSettings,
        run: RunFolder,
        group: Group,
    ) -> None:
        self.objective, self.data, self.settings = objective, data, settings
        self.folder, self.group = run, group
        self.model = model
        nn.Module.to(model, group.device)
        self.steps = num_steps(data, settings.batch_rows)
        if settings.batch_rows % group.size:
            raise TrainError(
                f"train.batch_rows={settings.batch_rows}: must divide by {group.size} processes"
            )
        bf16 = uses_bf16(settings, group.device)
        compiled, why = why_compiled(settings, self.steps, group.device)
        logp = TargetLogp(self.model, bf16=bf16, document_mask=settings.document_mask)
        if compiled:
            logp.compile(dynamic=False)
        layers = getattr(model.base_model, "layers", None)
        self.logp = spread(logp, layers, settings.parallel)
        self.optimizer = make_optimizer(self.model, settings)
        what = (fingerprint(settings), fingerprint(objective), self.steps, data.num_rows)
        self.fingerprint = fingerprint(what)
        self.state = State(0, 0, 0, 0.0, None, self.fingerprint)
        self.console = Console(stderr=True)
        self.events = EventLog(run.path) if settings.tensorboard and group.writes else None
        self._say(
            f"{self.steps:,} steps of {settings.batch_rows} rows; "
            f"{'bf16' if bf16 else 'fp32'} products; "
            f"{'compiled' if compiled else 'not compiled'}: {why}"
        )

    def run(self, at_eval: AtEval | None, stop_after_steps: int | None) -> TrainOutcome:
        """Go through the steps that are left."""
        self._resume()
        last = min(self.steps, stop_after_steps or self.steps)
        eval_steps = self.settings.eval_steps(self.steps)
        loss = self.state.running_loss or math.nan
        saved_at = time.monotonic()
        self.model.train()
        with self._display() as show:
            for step in range(self.state.step, last):
                started = time.perf_counter()
                loss, row = self._step(step)
                seconds = time.perf_counter() - started
                self._count(step, loss, row, seconds)
                show(row)
                if step + 1 in eval_steps and at_eval is not None:
                    self._evaluate(at_eval)
                ends = step + 1 == last
                if ends or time.monotonic() - saved_at > self.settings.checkpoint_every_s:
                    self._save()
                    saved_at = time.monotonic()
        self.model.eval()
        return TrainOutcome(self.state.step, self.state.text_tokens, loss)

    def close(self) -> None:
        """Let go of what holds the process group."""
        if self.events:
            self.events.close()
        del self.logp, self.optimizer

    def _step(self, step: int) -> tuple[float, dict[str, Any]]:
        """Do one step and return its loss and its row of metrics."""
        settings, group = self.settings, self.group
        own = rows_of_step(step, self.steps, settings.batch_rows)[group.rank :: group.size]
        micro = min(settings.micro_rows or len(own), len(own))
        parts = [own[i : i + micro] for i in range(0, len(own), micro)]
        sums: dict[str, Tensor] = {}
        tokens = 0
        for part in parts:
            batch = make_batch(self.data.rows(part), group.device)
            logp_BL = self.logp(batch.ids_BL, batch.targets_BL, batch.document_BL)
            loss = self.objective(logp_BL, batch)
            # The mean is over the targets of the whole step: sums go backward, and the gradient
            # is divided by their number below. DDP and FSDP2 average over processes: undone too.
            (loss.value * loss.metrics["targets"]).backward()
            for name, value in loss.metrics.items():
                sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value
            tokens += batch.ids_BL.numel()
        names = sorted(sums)
        stacked = torch.stack([sums[name].double() for name in names])
        total = dict(zip(names, summed(stacked, group).tolist(), strict=True))
        loss_nats = total["nats"] / max(total["targets"], 1)
        norm = self._clipped(group.size / max(total["targets"], 1))
        if not (math.isfinite(loss_nats) and math.isfinite(norm)):
            self._stop(step, f"the loss is {loss_nats}, the gradient's norm {norm}", "a smaller lr")
        self._check_spike(step, loss_nats)
        rate = settings.learning_rate(step, self.steps)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        row = {
            "step": step + 1,
            "steps": self.steps,
            "tokens": tokens * group.size,
            "text_tokens": int(total["text_targets"]),
            "loss_nats": loss_nats,
            "text_nats": total["text_nats"] / max(total["text_targets"], 1),
            "lr": rate,
            "grad_norm": norm,
        }
        return loss_nats, row

    def _clipped(self, scale: float) -> float:
        """Scale the gradients, clip them together, and return their norm before the clip."""
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        grads = [p.grad for p in parameters if p.grad is not None]
        total = nn.utils.get_total_norm(grads)
        full = total.full_tensor() if hasattr(total, "full_tensor") else total
        norm = float(full) * scale
        if math.isfinite(norm):
            factor = scale * min(1.0, self.settings.clip_norm / (norm + 1e-6))
            torch._foreach_mul_(grads, factor)
        return norm

    def _count(self, step: int, loss: float, row: dict[str, Any], seconds: float) -> None:
        """Add a step to the state, and log it if its turn has come."""
        old = self.state
        mean = (
            loss
            if old.running_loss is None
            else (RUNNING_DECAY * old.running_loss + (1 - RUNNING_DECAY) * loss)
        )
        self.state = State(
            step + 1,
            old.tokens + row["tokens"],
            old.text_tokens + row["text_tokens"],
            old.elapsed_s + seconds,
            mean,
            self.fingerprint,
        )
        row["tokens_per_s"] = round(row["tokens"] / seconds, 1)
        row["tokens"], row["text_tokens"] = self.state.tokens, self.state.text_tokens
        row["elapsed_s"] = round(self.state.elapsed_s, 3)
        due = (step + 1) % self.settings.log_every_steps == 0 or step + 1 == self.steps
        if due and self.group.writes:
            self.folder.append("metrics", [row])
            if self.events:
                self.events.add(row)

    def _evaluate(self, at_eval: AtEval) -> None:
        """Measure the model under eval(); the modes of its parts are put back."""
        progress = Progress(self.state.step, self.steps, self.state.text_tokens)
        training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        rows = list(at_eval(self.model, progress))
        for module in training:
            module.training = True
        if self.group.writes:
            head = {"step": progress.step, "text_tokens": progress.text_tokens}
            self.folder.append("evals", [head | dict(row) for row in rows])

    def _resume(self) -> None:
        """Go on from the newest checkpoint; rows that were written after it are cut off."""
        state = load_checkpoint(
            self.folder.path / "checkpoints",
            self.model,
            self.optimizer,
            fingerprint=self.fingerprint,
        )
        if state is not None:
            self.state = state
            self._say(f"goes on from step {state.step:,}")
        if self.group.writes:
            for name in ("metrics", "evals"):
                rows = self.folder.rows(name)
                kept = [row for row in rows if row.get("step", 0) <= self.state.step]
                if len(kept) != len(rows):
                    self.folder.rewrite(name, kept)

    def _save(self) -> None:
        folder = self.folder.path / "checkpoints"
        save_checkpoint(folder, self.model, self.optimizer, self.state, writes=self.group.writes)

    def _check_spike(self, step: int, loss: float) -> None:
        factor, mean = self.settings.spike_factor, self.state.running_loss
        if factor and mean is not None and step >= SPIKES_COUNT_AFTER and loss > factor * mean:
            what = f"the loss jumped to {loss:.3f} from a running mean of {mean:.3f}"
            self._stop(step, what, "a smaller lr, or train.spike_factor=none to go on regardless")

    def _stop(self, step: int, what: str, advice: str) -> None:
        self._save()
        raise TrainError(
            f"{self.folder.path}: step {step + 1}: {what}; stopped, with the state before this "
            f"step in checkpoints/. Try {advice}"
        )

    @contextmanager
    def _display(self) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Yield a function that shows a row: a bar on a terminal, else a line now and then."""
        bar = Bar(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[what]}"),
            TimeRemainingColumn(), console=self.console,
            disable=not (self.console.is_terminal and self.group.writes),
        )  # fmt: skip
        task = bar.add_task("training", total=self.steps, completed=self.state.step, what="")
        said = time.monotonic()

        def show(row: dict[str, Any]) -> None:
            nonlocal said
            what = f"loss {row['loss_nats']:.3f}, {row['tokens_per_s']:,.0f} tokens/s"
            bar.update(task, completed=row["step"], what=what)
            if time.monotonic() - said > 15:
                said = time.monotonic()
                share = row["step"] / self.steps
                left_s = self.state.elapsed_s / share * (1 - share)
                line = f"step {row['step']:,} of {self.steps:,}: {what}, {left_s:,.0f} s left"
                self._say(line, aloud=not self.console.is_terminal)

        with bar:
            yield show

    def _say(self, line: str, *, aloud: bool = False) -> None:
        if self.group.writes:
            self.folder.log(line)
            if aloud:
                self.console.print(line, highlight=False)


def make_optimizer(model: PreTrainedModel, settings: TrainSettings) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices alone, not on norms, biases or embeddings."""
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    weights = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in weights if p.ndim >= 2 and id(p) not in tables]
    others = [p for p in weights if p.ndim < 2 or id(p) in tables]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        fused=settings.parallel != "fsdp2",
    )
