"""Findings per character of each span: the score of every scorer that counts."""

from bisect import bisect_right
from collections.abc import Sequence

from prealign.text.document import Span


def density(spans: Sequence[Span], starts: Sequence[int]) -> list[float]:
    """Return how many findings begin in each span, over its length; an empty span has 0.

    Args:
        spans: Tile a text.
        starts: Where in the text the findings begin, in characters.
    """
    counts = [0] * len(spans)
    ends = [span.end_char for span in spans]
    for start in starts if spans else ():
        counts[bisect_right(ends, start)] += 1
    sizes = (span.end_char - span.start_char for span in spans)
    return [count / max(size, 1) for count, size in zip(counts, sizes, strict=True)]
