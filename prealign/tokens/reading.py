"""Documents as rows to train on, encoded once: from a folder if they are there, else into it."""

from collections.abc import Iterable
from pathlib import Path

from prealign.text.document import Document
from prealign.tokens.encode import Encoder
from prealign.tokens.pack import Packed, shuffled_order
from prealign.tokens.shards import read_tokens, write_tokens


def packed_once(
    folder: Path,
    documents: Iterable[Document],
    encoder: Encoder,
    *,
    seed: int,
    row_tokens: int,
    text_tokens: int,
) -> Packed:
    """Return so many text tokens of documents as rows, in a random order, again where they end.

    Args:
        folder: Holds the tokens, or gets them.
        documents: Are read only if it has none.
        encoder: Makes the tokens.
        seed: Of the order.
        row_tokens: Targets of a row.
        text_tokens: Of all rows together.
    """
    if not (folder / "header.json").exists():
        write_tokens(folder, documents, encoder)
    shard = read_tokens(folder)
    return Packed(
        shard=shard, order=shuffled_order(shard.document_ids, seed), row_tokens=row_tokens,
        text_token_budget=text_tokens, inert_id=encoder.vocabulary.inert_id,
        epochs=-(-text_tokens // int(shard.text_lengths.sum())),
    )  # fmt: skip
