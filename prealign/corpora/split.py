"""Train and held-out parts, cut between packages."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Literal

from prealign.errors import ConfigError, DataError
from prealign.text.document import Document

Part = Literal["train", "heldout"]


def split_of(source: str, *, seed: int, heldout_share: float) -> Part:
    """Return the part a source belongs to: all its documents, on any machine, now and later.

    The source (a package, not a file) is hashed with the seed. Copies of a package from several
    interpreters have one name, so they fall into one part.

    Raises:
        ConfigError: The share is not in [0, 1].
        DataError: The source is empty, so nothing says what must stay together.
    """
    if not 0 <= heldout_share <= 1:
        raise ConfigError(f"heldout_share={heldout_share}: expected a share between 0 and 1")
    if not source:
        raise DataError("a document without a source cannot be split; set Document.source")
    digest = hashlib.sha256(f"{seed}\0{source}".encode()).digest()
    return "heldout" if int.from_bytes(digest[:8]) < heldout_share * 2**64 else "train"


def split(
    documents: Iterable[Document], part: Part, *, seed: int, heldout_share: float
) -> Iterator[Document]:
    """Yield the documents of one part, in order.

    Raises:
        DataError: A document has no source.
    """
    for document in documents:
        if split_of(document.source, seed=seed, heldout_share=heldout_share) == part:
            yield document
