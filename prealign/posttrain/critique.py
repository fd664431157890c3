"""Critique and revision: a model answers, says where a principle is broken, and answers again.

After constitutional AI (Bai et al. 2022, https://arxiv.org/abs/2212.08073). The revisions become
answers for `prealign.posttrain.supervise.Supervise`. Rows are kept as JSONL, task by task, so that
what was interrupted goes on:

    {"task", "principle", "draft", "critique", "revision", "asked", "made_by"}

What a task shows of an earlier answer it shows as text, so a draft that spells a tag or a special
token stays text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from transformers import PreTrainedModel

from prealign.config import fingerprint
from prealign.errors import ConfigError, DataError, RunError
from prealign.posttrain.adapters import fingerprint_of
from prealign.posttrain.constitution import Constitution, load_constitution
from prealign.posttrain.rollouts import Stage, Task
from prealign.runs import RunFolder
from prealign.text.document import Document, Span

ROWS = "revisions"
CRITIQUE = "{task}\n\nAnswer: {draft}\n\n{request}"
REVISION = "{task}\n\nAnswer: {draft}\n\nCritique: {critique}\n\n{request}"


class Revised(NamedTuple):
    """What came of a task."""

    task: str
    """Its id."""
    principle: str
    """The id of the one that it was judged by."""
    draft: str
    critique: str
    revision: str

    @property
    def changed(self) -> bool:
        """There is a revision, and it is another text than the draft."""
        return bool(self.revision.strip()) and self.revision.strip() != self.draft.strip()


@dataclass(frozen=True, kw_only=True)
class Critique:
    """Drafts, critiques and revisions of tasks; call it with a model and a folder."""

    stage: Stage
    """Where all three are written: its sampling context's seed stands in front of each."""
    tasks: tuple[Task, ...]
    constitution: Constitution = field(default_factory=lambda: load_constitution("corrigibility"))
    tasks_at_once: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tasks_at_once < 1:
            raise ConfigError(f"tasks_at_once={self.tasks_at_once}: expected 1 or more")
        ids = [task.id for task in self.tasks]
        if not ids or len(set(ids)) < len(ids):
            raise DataError(
                f"{len(ids)} tasks with {len(set(ids))} ids: expected one task at least, each with "
                "an id of its own"
            )

    def __call__(self, model: PreTrainedModel, run: RunFolder) -> list[Revised]:
        """Return a row for each task, in order; those that the folder has are not made again.

        Raises:
            RunError: The folder's rows were made by another model, with other settings, or of
                another task with the same id.
            DataError: A draft and its critique leave no room to write behind them.
        """
        made_by = self.made_by(model)
        asked = {task.id: _asked_by(task) for task in self.tasks}
        done = {row["task"]: _read(row, made_by, asked, run) for row in run.rows(ROWS)}
        left = [task for task in self.tasks if task.id not in done]
        for start in range(0, len(left), self.tasks_at_once):
            found = self.revise(model, left[start : start + self.tasks_at_once])
            more = [{"asked": asked[row.task], "made_by": made_by} for row in found]
            run.append(ROWS, [a._asdict() | b for a, b in zip(found, more, strict=True)])
            done |= {row.task: row for row in found}
        return [done[task.id] for task in self.tasks]

    def made_by(self, model: PreTrainedModel) -> str:
        """Return 16 hex digits of all that decides a row besides its task."""
        parts = {
            "model": fingerprint_of(list(model.parameters())),
            "stage": self.stage.identity(),
            "constitution": self.constitution.fingerprint,
            "seed": self.seed,
        }
        return fingerprint(parts)

    def revise(self, model: PreTrainedModel, tasks: Sequence[Task]) -> list[Revised]:
        """Return drafts, critiques and revisions of some tasks."""
        chosen = [self.constitution.choose(task.id, self.seed) for task in tasks]
        pairs = list(zip(tasks, chosen, strict=True))
        drafts = self._write(model, tasks)
        asked = [
            _asked(task, "critique", CRITIQUE, draft=draft, request=one.critique)
            for (task, one), draft in zip(pairs, drafts, strict=True)
        ]
        critiques = self._write(model, asked)
        asked = [
            _asked(task, "revision", REVISION, draft=draft, critique=said, request=one.revision)
            for (task, one), draft, said in zip(pairs, drafts, critiques, strict=True)
        ]
        revisions = self._write(model, asked)
        return [
            Revised(task.id, one.id, draft, said, again)
            for (task, one), draft, said, again in zip(
                pairs, drafts, critiques, revisions, strict=True
            )
        ]

    def _write(self, model: PreTrainedModel, tasks: Sequence[Task]) -> list[str]:
        written = self.stage.write(model, tasks, 0, count=1, seed=self.seed)
        return [one.text.strip() for one in written]


class Answers(NamedTuple):
    """Revisions as answers to learn."""

    tasks: tuple[Task, ...]
    """Those that have one."""
    answers: Mapping[str, str]
    """By the task's id."""
    unchanged: int
    """Tasks without a revision, or with one that says what the draft says; they are left out."""


def answers_of(tasks: Sequence[Task], rows: Sequence[Revised]) -> Answers:
    """Return what `Supervise` learns of rows.

    Raises:
        DataError: No row has a revision that says anything else than its draft.
    """
    changed = {row.task: row.revision for row in rows if row.changed}
    if not changed:
        raise DataError(
            f"{len(rows)} rows, and no revision that differs from its draft: the model does not "
            "revise; use contrast.Contrast, which needs no critique"
        )
    kept = tuple(task for task in tasks if task.id in changed)
    return Answers(kept, changed, len(tasks) - len(kept))


def _asked(task: Task, name: str, form: str, **texts: str) -> Task:
    """Return a task that shows another with what was said to it, in the mode of its last span."""
    if not task.document.spans:
        raise DataError(f"task {task.id!r}: has no spans, so nobody speaks in it")
    text = form.format(task=task.document.text.strip(), **texts)
    span = Span(0, len(text), task.document.spans[-1].mode)
    return Task(Document(f"{task.id} {name}", text, (span,)), task.record)


def _asked_by(task: Task) -> str:
    """Return 16 hex digits that change with a task's text or modes."""
    return fingerprint([task.document.text, [list(span[:3]) for span in task.document.spans]])


def _read(
    row: Mapping[str, Any], made_by: str, asked: Mapping[str, str], run: RunFolder
) -> Revised:
    what = None
    if row.get("made_by") != made_by:
        what = "was revised by another model or with other settings"
    elif row.get("asked") != asked.get(row["task"], row.get("asked")):
        what = "had another text when it was revised"
    if what:
        raise RunError(
            f"{run.path / ROWS}.jsonl: task {row['task']!r} {what}; name another folder, or "
            "delete the file"
        )
    return Revised(**{name: str(row[name]) for name in Revised._fields})
