"""What was left out of a corpus, counted; apart from cleaning, so that readers start fast."""

from dataclasses import dataclass, field
from typing import Any

SAMPLES = 20
"""Rejected documents that are named, for each reason."""


@dataclass
class Rejects:
    """What was left out: counts by reason, and the first documents of each."""

    counts: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, sample: str) -> None:
        """Count one, and keep the sample if it is among the first."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        kept = self.samples.setdefault(reason, [])
        if len(kept) < SAMPLES:
            kept.append(sample)

    def to_json(self) -> dict[str, Any]:
        """Return counts and samples as JSON data."""
        return {"counts": dict(self.counts), "samples": dict(self.samples)}
