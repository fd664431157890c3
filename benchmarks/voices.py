"""A world of two voices with known truth, for `benchmarks/monitor.py`.

A text is lines; each line is written by a good or a bad voice. A voice goes on with chance 0.8. It
takes three words of four from those that both use, the others from its own twelve.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from prealign.text.document import Document, Span

MODES = ("good", "bad")
SHARED_SHARE, GOES_ON, NOISE = 0.75, 0.8, 0.1
OWN, SHARED = 12, 24


def words_of(first: int, count: int) -> list[str]:
    """Return made-up words, all different."""
    parts = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    return [
        parts[i % 60] + parts[(7 * i + 11) % 60] + "nlrst"[i % 5]
        for i in range(first, first + count)
    ]


WORDS = {"shared": words_of(0, SHARED), "good": words_of(24, OWN), "bad": words_of(36, OWN)}
VOICE_OF = {word: voice for voice, words in WORDS.items() for word in words}


@dataclass(frozen=True)
class Text:
    """A text whose voices are known."""

    lines: tuple[str, ...]
    voices: tuple[int, ...]
    """Per line: 0 good, 1 bad."""

    def document(self, name: str, labels: Sequence[int]) -> Document:
        """Return the text with these labels as the modes of its lines."""
        ends = np.cumsum([0, *map(len, self.lines)]).tolist()
        spans = [Span(*at, MODES[i]) for at, i in zip(pairwise(ends), labels, strict=True)]
        return Document(name, "".join(self.lines), tuple(spans))


def make_text(random: np.random.Generator) -> Text:
    """Return a text of 8 to 14 lines of 5 to 8 words."""
    voice, lines, voices = int(random.integers(2)), [], []
    for _ in range(int(random.integers(8, 15))):
        words = [
            str(random.choice(WORDS["shared" if random.random() < SHARED_SHARE else MODES[voice]]))
            for _ in range(int(random.integers(5, 9)))
        ]
        lines.append(" ".join(words) + "\n")
        voices.append(voice)
        voice = voice if random.random() < GOES_ON else 1 - voice
    return Text(tuple(lines), tuple(voices))


def noisy(voices: Sequence[int], random: np.random.Generator) -> list[int]:
    """Return labels of which some are wrong."""
    return [voice ^ int(random.random() < NOISE) for voice in voices]


def log_p(word: str, mode: str) -> float:
    """Return log p of a word in a voice."""
    if VOICE_OF[word] == "shared":
        return float(np.log(SHARED_SHARE / SHARED))
    return float(np.log((1 - SHARED_SHARE) / OWN)) if VOICE_OF[word] == mode else -np.inf
