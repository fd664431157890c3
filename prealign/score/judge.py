"""A language model as judge: it reads a rubric and a segment, and answers with a number.

What it answered is kept in a file, so that a run that stopped goes on without asking again; what
it may cost has a bound that stops before it is passed. A model that can be asked is anything with
a name that is called with a prompt: a server (`prealign.ask.server`), or a model in this
process (`prealign.models.judge`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from prealign.ask.answer import Asked, BudgetSpent, CannotAnswer
from prealign.ask.kept import KeptAnswers
from prealign.ask.rating import RUBRIC, Rubric
from prealign.config import NOT_RECORDED, fingerprint
from prealign.errors import ConfigError
from prealign.text.document import Document, Judgement


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A scorer: the number that a model answers to a rubric, from 0 (lowest) to 1 (highest).

    An answer without a number in the range cannot be used: the span has no score. So has one that
    the model cannot be asked about, and an empty one, about which nobody is asked.

    Raises:
        ConfigError: The rubric lacks {passage}, the range or the budget is empty, or there is a
            budget and no file of answers to count it in.
    """

    model: Asked
    rubric: str = RUBRIC
    """Has {passage} where the segment goes, as a JSON string in which `<` and `[` are escaped too:
    no text can end it, nor spell one of a chat model's marks."""
    lowest: float = 0.0
    highest: float = 10.0
    answers: Path | None = field(default=None, metadata=NOT_RECORDED)
    """An SQLite file of what was answered; several processes may share it. None: not kept."""
    max_tokens: int | None = field(default=None, metadata=NOT_RECORDED)
    """Of all answers in the file, whoever asked: no question is asked once they have as many.
    None: no bound."""

    def __post_init__(self) -> None:
        _ = self._rubric
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"judge: max_tokens={self.max_tokens}: must be at least 1, or None")
        if self.max_tokens is not None and self.answers is None:
            raise ConfigError("judge: max_tokens needs answers, the file in which they are counted")

    @property
    def name(self) -> str:
        """The key of its scores."""
        return "judge"

    @cached_property
    def version(self) -> str:
        """The model, and a fingerprint of the rubric with its range."""
        asked = fingerprint([self.rubric, self.lowest, self.highest])
        return f"1, {self.model.name}, rubric {asked}"

    def __call__(self, documents: Sequence[Document]) -> list[Judgement]:
        """Return a score per span.

        Raises:
            BudgetSpent: `max_tokens` were used up.
            DataError: The model cannot be asked.
        """
        return [self._judge(document) for document in documents]

    def rate(self, text: str) -> float | None:
        """Return the score of one text; None: there is no answer, or no number in it."""
        try:
            return self._rubric.read(self._ask(text))
        except CannotAnswer:
            return None

    @property
    def _rubric(self) -> Rubric:
        return Rubric(text=self.rubric, lowest=self.lowest, highest=self.highest)

    @property
    def spent_tokens(self) -> int:
        """Tokens of all answers that are kept; 0 if none are."""
        return 0 if self.answers is None else KeptAnswers(self.answers).tokens

    def _judge(self, document: Document) -> Judgement:
        texts = [document.text[span.start_char : span.end_char] for span in document.spans]
        scores = [self.rate(text) if text.strip() else None for text in texts]
        missing = sum(score is None for score in scores)
        return Judgement(scores, [], f"{missing} spans without a rating" if missing else None)

    def _ask(self, text: str) -> str:
        prompt = self._rubric.ask(text)
        key = hashlib.sha256(f"{self.version}\n{prompt}".encode(errors="surrogatepass")).hexdigest()
        kept = None if self.answers is None else KeptAnswers(self.answers)
        if kept is not None and (answer := kept.get(key)) is not None:
            return answer.text
        if self.max_tokens is not None and (spent := self.spent_tokens) >= self.max_tokens:
            raise BudgetSpent(
                f"judge: {spent:,} tokens were used, max_tokens={self.max_tokens:,}; what was "
                f"answered is kept in {self.answers}: give it more and run again"
            )
        answer = self.model(prompt)
        if kept is not None:
            kept.keep([(key, answer)])
        return answer.text
