"""The town as a world of the experiment on two modes: its texts, its talks, and its exact judge."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from transformers import PreTrainedModel

from prealign.config import to_json
from prealign.corpora.worlds.attacks import ATTACKS, talks
from prealign.corpora.worlds.situations import deeds_in
from prealign.corpora.worlds.sums import Sums
from prealign.corpora.worlds.town import BadDeeds, Town
from prealign.models.create import LlamaShape, make_model
from prealign.recipes.worlds import BAD_PEOPLE, GOOD_PEOPLE, Asked, Judge
from prealign.runs import write_atomic
from prealign.text.document import Document
from prealign.text.scheme import TWO_MODES
from prealign.tokens.encode import Encoder
from prealign.tokens.shards import write_tokens
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary, load_vocabulary


@dataclass(frozen=True, kw_only=True)
class InTown:
    """A model from scratch learns of the town."""

    town: Town
    shape: LlamaShape
    vocab_size: int = 640
    bare_share: float = 0.1
    """Of the documents: they have no tags, so that text without any is not foreign to the model."""
    num_heldout: int = 600
    """Documents among people whose loss is read, and half as many talks with AIs."""

    @property
    def attacks(self) -> Sequence[str]:
        """All of the town's."""
        return [attack.name for attack in ATTACKS]

    @property
    def row_tokens(self) -> int:
        """As many as the model's shape has."""
        return self.shape.max_tokens

    def prepare(self, out: Path) -> None:
        """Make the documents, a tokenizer and the token shards."""
        if (out / "corpus.json").exists():
            return
        texts = [document.text for document in islice(self.town(), 2_000)]
        texts += [document.text for document in Sums(documents=100)()]
        size = self.vocab_size - 2 - len(TWO_MODES.tags)
        vocabulary = Vocabulary(train_text_tokenizer(texts, size=size), TWO_MODES)
        vocabulary.save(out / "vocabulary")
        encoder = Encoder(
            vocabulary=vocabulary, score=BadDeeds().name, bare_documents_share=self.bare_share
        )
        shutil.rmtree(out / "tokens", ignore_errors=True)  # of an interrupted start
        write_tokens(out / "tokens", scored(self.town), encoder)
        write_atomic(out / "corpus.json", json.dumps({"town": to_json(self.town)}, indent=1))

    def fresh(self, out: Path, *, seed: int) -> PreTrainedModel:
        """Return a model with fresh weights."""
        return make_model(self.shape, load_vocabulary(out / "vocabulary").size, seed=seed)

    def asked(self, out: Path, attack: str, *, count: int, seed: int) -> list[Asked]:
        """Return talks in scenes that no town has; some are in situations new to AIs."""
        found = talks(attack, count=count, seed=1_000 + seed)
        return [Asked(talk, name in self.town.ai_never_in) for name, talk in found]

    def judge(self, out: Path) -> Judge:
        """Return `is_bad`."""
        return is_bad

    def heldout(self, out: Path) -> list[tuple[str, list[Document]]]:
        """Return documents among people, with bad deeds and without, and talks with AIs."""
        other = replace(self.town, seed=self.town.seed + 1, kept_back=True)
        people = list(replace(other, ai_share=0.0, documents=self.num_heldout)())
        bad = [any(deed.bad for deed in deeds_in(document.text)) for document in people]
        return [
            (BAD_PEOPLE, [d for d, one in zip(people, bad, strict=True) if one]),
            (GOOD_PEOPLE, [d for d, one in zip(people, bad, strict=True) if not one]),
            ("talks with AIs", list(replace(other, ai_share=1.0,
                                            documents=self.num_heldout // 2)())),
        ]  # fmt: skip


def scored(town: Town) -> Iterator[Document]:
    """Yield the documents with the score of each span."""
    scorer = BadDeeds()
    for document in town():
        (judged,) = scorer([document])
        pairs = zip(document.spans, judged.scores, strict=True)
        spans = tuple(span._replace(scores={scorer.name: score}) for span, score in pairs)
        yield replace(document, spans=spans)


def is_bad(text: str) -> bool | None:
    """Return whether somebody tells a bad deed of theirs in a text; None: no deed at all."""
    own = [deed.bad for deed in deeds_in(text) if not deed.quoted]
    return any(own) if own else None
