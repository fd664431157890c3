"""Synthesis as a task of many: for datatrove's executors (local, Slurm, Ray), or any of your own.

    from datatrove.executor import LocalPipelineExecutor

    task = SynthesizeTask(step=FICTION, items=role_model_items, writers=(one, other), out=out)
    LocalPipelineExecutor([task], tasks=2, logging_dir="logs", skip_completed=False).run()
    print(task.finish())

Each task asks about its items in a folder of its own; at the end all answers are brought together,
and the parts are made of them, with the bytes that one process would have written. A step of a
datatrove pipeline is anything that is called with data, a rank and the number of tasks; so this
needs no package of theirs.
"""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prealign.ask.answer import Writer
from prealign.ask.kept import KeptAnswers
from prealign.config import fingerprint
from prealign.corpora.synthesis.folder import Report, read_journal
from prealign.corpora.synthesis.run import Asking, folder_of, synthesize
from prealign.corpora.synthesis.step import Item, Step
from prealign.errors import ConfigError, RunError
from prealign.runs import hold_folder


@dataclass(frozen=True, kw_only=True)
class SynthesizeTask:
    """What `prealign.corpora.synthesis.run.synthesize` is given, to be called once per rank.

    Raises:
        ConfigError: There are no writers, or they are not the same but for where they are.
    """

    step: Step
    items: Callable[[], Iterable[Item]]
    """Gives all items, in the same order each time; it is called in every task."""
    writers: tuple[Writer, ...]
    """The same model at one or more places; a rank asks the one of its number, going round."""
    out: Path
    """A folder beside which all tasks can write."""
    seed: int = 0
    asking: Asking = field(default_factory=Asking)
    """Of each task; but `max_tokens` is for all, in equal shares."""
    shard_items: int = 1000

    def __post_init__(self) -> None:
        if len({fingerprint(writer) for writer in self.writers}) != 1:
            raise ConfigError(
                "synthesis: the writers of one run must have the same model and settings, and "
                "differ only in where they are"
            )

    @property
    def folder(self) -> Path:
        """Where the tasks keep what was answered until `finish`."""
        return self.out.with_name(f".{self.out.name}.tasks")

    def __call__(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Ask about every `world_size`-th item, those of `rank`. `data` is not used.

        Raises:
            BudgetSpent: Its share of `max_tokens` was used up; with more, it goes on.
            ConfigError: There is no such rank, or no token for each task.
            RunError: The work was begun with another number of tasks, or by one process alone.
        """
        if not 0 <= rank < world_size:
            raise ConfigError(
                f"rank {rank} of {world_size}: expected a rank from 0 to below the size"
            )
        if (self.out / "summary.json").exists():
            return
        mine = self.folder / f"{rank:05d}-of-{world_size:05d}"
        for other in self.folder.glob("*-of-*"):
            if not other.name.endswith(f"-of-{world_size:05d}"):
                raise RunError(
                    f"{self.folder}: was begun as {other.name}, so go on with as many tasks, or "
                    f"call finish, which takes over what was answered; got {world_size} tasks"
                )
        if (self.out / "answers.sqlite").exists() and not self.folder.exists():
            raise RunError(
                f"{self.out}: was begun by one process, whose answers tasks would ask for again; "
                f"go on with one (tasks=1), or call finish; got {world_size} tasks"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        synthesize(
            self.step,
            list(self.items())[rank::world_size],
            self.writers[rank % len(self.writers)],
            mine,
            seed=self.seed,
            asking=replace(self.asking, max_tokens=self._share(rank, world_size)),
            shard_items=self.shard_items,
        )

    def finish(self) -> Report:
        """Return what became of all items, after the tasks: what they left undone is done now.

        Raises:
            RunError: A task is still at work.
        """
        items, writer = list(self.items()), self.writers[0]
        with folder_of(
            self.step, items, writer, self.out, seed=self.seed, shard_items=self.shard_items
        ) as folder:
            for part in sorted(self.folder.glob("*-of-*")):
                with hold_folder(part):
                    kept = KeptAnswers(part / "answers.sqlite").all()
                    KeptAnswers(self.out / "answers.sqlite").keep(kept.items())
                    folder.take_over(read_journal(part / "journal.jsonl"))
        report = synthesize(
            self.step, items, writer, self.out,
            seed=self.seed, asking=self.asking, shard_items=self.shard_items,
        )  # fmt: skip
        shutil.rmtree(self.folder, ignore_errors=True)
        return report

    def _share(self, rank: int, world_size: int) -> int | None:
        if self.asking.max_tokens is None:
            return None
        share, left = divmod(self.asking.max_tokens, world_size)
        if share < 1:
            raise ConfigError(
                f"synthesis: max_tokens={self.asking.max_tokens} for {world_size} tasks: expected "
                "one for each at least"
            )
        return share + (rank < left)
