"""A scorer held against labels, on two halves: a threshold chosen on one is stated on the other."""

from collections.abc import Sequence
from pathlib import Path

from prealign.corpora.split import split_of
from prealign.errors import DataError
from prealign.report.calibration import Calibration, Group, Threshold, calibration_page
from prealign.runs import write_atomic
from prealign.score.calibrate import (
    Operating,
    best_threshold,
    operating_point,
    operating_points,
    reliability,
)
from prealign.text.document import Document, Scorer


def calibrate(
    documents: Sequence[Document],
    scorer: Scorer,
    out: Path,
    *,
    file: str,
    min_precision: float | None = None,
) -> Calibration:
    """Return what the labels say of the scorer, and write the page `out`.

    Args:
        documents: One span each, whose score is the label: above 0 is bad
            (`prealign.corpora.labels`). Those the scorer cannot judge are left out and counted.
        scorer: Judges the texts, each as a whole.
        out: The page.
        file: What the page calls the texts.
        min_precision: Take the best recall at this precision; else the best F1.

    Raises:
        DataError: A half lacks good or bad texts, or no threshold is that precise.
    """
    halves: dict[str, tuple[list[float], list[bool]]] = {"train": ([], []), "heldout": ([], [])}
    unjudged = 0
    for document, judgement in zip(documents, scorer(documents), strict=True):
        unjudged += not document.spans  # an empty text
        for span, score in zip(document.spans, judgement.scores, strict=True):
            (label,) = span.scores.values()
            if score is None or label is None:
                unjudged += 1
                continue
            scores, bad = halves[split_of(document.source, seed=0, heldout_share=0.5)]
            scores.append(score)
            bad.append(label > 0)
    if unjudged == len(documents):
        raise DataError(f"{file}: {scorer.name} could judge none of {unjudged:,} texts")
    chosen = best_threshold(*halves["train"], min_precision=min_precision)
    other = halves["heldout"]
    groups = reliability(*other)
    found = Calibration(
        scorer=f"{scorer.name} {scorer.version}",
        file=file,
        texts=len(documents),
        bad=sum(sum(bad) for _, bad in halves.values()),
        unjudged=unjudged,
        chosen=_shown(chosen),
        checked=_shown(operating_point(*other, chosen.max_good)),
        points=[_shown(point) for point in operating_points(*other)],
        groups=[Group(*one) for one in groups.bins],
        expected_error=groups.expected_error,
    )
    write_atomic(out, calibration_page(found))
    return found


def _shown(point: Operating) -> Threshold:
    return Threshold(*point)
