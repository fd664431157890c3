"""Splits: by package, the same everywhere, in the asked proportion."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prealign.corpora.split import split, split_of
from prealign.errors import ConfigError, DataError
from prealign.text.document import Document


@given(st.text(min_size=1), st.integers(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_only_adds_packages_to_the_held_out_part(source, seed, one, other):
    small, large = sorted([one, other])
    if split_of(source, seed=seed, heldout_share=small) == "heldout":
        assert split_of(source, seed=seed, heldout_share=large) == "heldout"


def test_the_share_of_packages_is_the_one_asked_for():
    parts = [split_of(f"package{i}", seed=3, heldout_share=0.2) for i in range(4000)]

    assert 0.18 < parts.count("heldout") / 4000 < 0.22
    assert {split_of("p", seed=s, heldout_share=0.0) for s in range(50)} == {"train"}
    assert {split_of("p", seed=s, heldout_share=1.0) for s in range(50)} == {"heldout"}


def test_the_seed_draws_other_packages():
    def drawn(seed: int) -> set[int]:
        return {i for i in range(500) if split_of(f"p{i}", seed=seed, heldout_share=0.2) != "train"}

    assert len(drawn(0) & drawn(1)) < len(drawn(0)) / 2


def test_a_package_is_in_one_part_and_every_document_in_exactly_one():
    documents = [Document(f"{i}", "x", (), f"package{i % 50}") for i in range(500)]

    train = list(split(documents, "train", seed=0, heldout_share=0.3))
    heldout = list(split(documents, "heldout", seed=0, heldout_share=0.3))

    assert sorted([*train, *heldout], key=lambda d: int(d.id)) == documents
    assert not {d.source for d in train} & {d.source for d in heldout}
    assert train
    assert heldout


def test_documents_without_source_and_shares_outside_of_one_are_refused():
    with pytest.raises(DataError, match="without a source"):
        split_of("", seed=0, heldout_share=0.5)
    with pytest.raises(ConfigError, match=r"heldout_share=1\.5"):
        split_of("p", seed=0, heldout_share=1.5)
