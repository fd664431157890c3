"""What annotation counts: per chunk, then summed over the corpus."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from prealign.text.document import Document, Judgement

SAMPLES = 20
"""Documents that could not be judged and are named."""
REASON_CHARS = 80


@dataclass
class Tally:
    """Counts of documents, spans and findings. Sums of tallies do not depend on chunks."""

    documents: int = 0
    """Read, those that were dropped included."""
    dropped: int = 0
    """Documents that the tagger left out."""
    segments: int = 0
    characters: int = 0
    modes: dict[str, int] = field(default_factory=dict)
    """Spans of each mode; `untagged` for none. Dropped documents are not in it."""
    findings: dict[str, int] = field(default_factory=dict)
    """By scorer, in documents that it could judge."""
    judged_characters: dict[str, int] = field(default_factory=dict)
    """By scorer: the size of those documents."""
    unjudged: int = 0
    """Documents with a span that a scorer could not judge."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Why: the part of the problem before its first colon, counted."""
    samples: list[str] = field(default_factory=list)
    """`ID: PROBLEM` of the first of them."""

    def judged(self, document: Document, judgements: Mapping[str, Judgement]) -> None:
        """Count a scored document."""
        self.documents += 1
        self.segments += len(document.spans)
        self.characters += len(document.text)
        unjudged = False
        for name, judgement in judgements.items():
            if None not in judgement.scores:
                _add(self.findings, {name: len(judgement.findings)})
                _add(self.judged_characters, {name: len(document.text)})
                continue
            unjudged = True
            reason = (judgement.problem or "no reason given").partition(":")[0]
            _add(self.reasons, {reason[:REASON_CHARS]: 1})
        if unjudged:
            self.unjudged += 1
            self.samples = [*self.samples, f"{document.id}: {document.problem}"][:SAMPLES]

    def tagged(self, document: Document | None) -> None:
        """Count a tagged document; None: it was dropped."""
        if document is None:
            self.dropped += 1
            return
        _add(self.modes, Counter(span.mode or "untagged" for span in document.spans))

    def add(self, other: "Tally") -> None:
        """Add the counts of a later chunk."""
        self.documents += other.documents
        self.dropped += other.dropped
        self.segments += other.segments
        self.characters += other.characters
        self.unjudged += other.unjudged
        self.samples = [*self.samples, *other.samples][:SAMPLES]
        _add(self.modes, other.modes)
        _add(self.findings, other.findings)
        _add(self.judged_characters, other.judged_characters)
        _add(self.reasons, other.reasons)

    @property
    def findings_per_char(self) -> dict[str, float | None]:
        """Findings per judged character, by scorer; None: no character was judged."""
        chars = self.judged_characters
        return {name: n / chars[name] if chars[name] else None for name, n in self.findings.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON data."""
        return asdict(self)


def join_problems(problems: Sequence[str | None]) -> str | None:
    """Return the problems of several scorers as one text; None if there are none."""
    return "; ".join(problem for problem in problems if problem) or None


def _add(counts: dict[str, int], more: Mapping[str, int]) -> None:
    for key, count in more.items():
        counts[key] = counts.get(key, 0) + count
