"""Annotation as a task of many: for datatrove's executors (local, Slurm, Ray), or any of your own.

    from datatrove.executor import LocalPipelineExecutor

    task = AnnotateTask(documents=PythonSource(), out=Path("shards"), segmenter=Lines(), ...)
    LocalPipelineExecutor([task], tasks=8, workers=2, logging_dir="logs").run()
    print(task.finish())

A step of a datatrove pipeline is anything that is called with data, a rank and the number of tasks;
so this needs no package of theirs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prealign.score.annotate import AnnotateReport, annotate, annotate_part
from prealign.score.tag import Threshold
from prealign.text.document import Document, Scorer, Segmenter


@dataclass(frozen=True, kw_only=True)
class AnnotateTask:
    """What `prealign.score.annotate.annotate` is given, to be called once per rank."""

    documents: Callable[[], Iterable[Document]]
    """Gives all documents, in the same order each time; it is called in every task."""
    out: Path
    """A folder that all tasks can write to."""
    segmenter: Segmenter
    scorer: Scorer | Sequence[Scorer]
    tagger: Threshold | None = None
    source: Mapping[str, Any]

    def __call__(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Write the shards of one rank; those that are there are kept. `data` is not used."""
        annotate_part(
            self.documents(),
            self.out,
            rank=rank,
            world_size=world_size,
            segmenter=self.segmenter,
            scorer=self.scorer,
            tagger=self.tagger,
            source=self.source,
        )

    def finish(self, *, processes: int = 1) -> AnnotateReport:
        """Return the counts, after the tasks: what one of them left undone is done now."""
        return annotate(
            self.documents(),
            self.out,
            segmenter=self.segmenter,
            scorer=self.scorer,
            tagger=self.tagger,
            source=self.source,
            processes=processes,
            progress=False,
        )
