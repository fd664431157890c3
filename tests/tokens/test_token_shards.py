"""Token shards: what is read is what was encoded, whole or not at all, in bounded memory."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from prealign.errors import DataError
from prealign.text.document import Document, Span
from prealign.text.scheme import GOOD_BAD, TWO_MODES
from prealign.tokens import shards
from prealign.tokens.encode import Encoder
from prealign.tokens.shards import read_tokens, untagged, write_tokens
from prealign.tokens.vocabulary import Vocabulary
from tests.tokens.documents import CORPUS, enclosed, lines, marked, vocabulary

COLUMNS = ("ids", "mode", "score", "flags")
DOCUMENTS = [lines(f"doc\n{i} \u65e5", text) for i, text in enumerate([*CORPUS, "", "x"])]


def encoder(scheme=GOOD_BAD, **settings):
    return Encoder(vocabulary=vocabulary(scheme), score="s", **settings)


def same(first, second):
    columns = all(np.array_equal(getattr(first, n), getattr(second, n)) for n in COLUMNS)
    offsets = np.array_equal(first.offsets, second.offsets)
    return columns and offsets and first.document_ids == second.document_ids


def files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_shard_holds_what_the_encoder_made(tmp_path):
    shard = write_tokens(tmp_path / "a", iter(DOCUMENTS), encoder())
    encoded = encoder()(DOCUMENTS)
    for read in (shard, read_tokens(tmp_path / "a")):
        assert read.document_ids == tuple(document.id for document in DOCUMENTS)
        assert read.num_documents == len(DOCUMENTS)
        assert read.num_tokens == sum(len(one.ids) for one in encoded)
        for index, one in enumerate(encoded):
            piece = slice(read.offsets[index], read.offsets[index + 1])
            for name in COLUMNS:
                assert getattr(read, name)[piece].tolist() == getattr(one, name).tolist()
    assert shard.ids.dtype == np.uint16
    texts = [len(vocabulary().encode_text(document.text)) for document in DOCUMENTS]
    assert shard.text_lengths.tolist() == texts
    assert shard.num_text_tokens == sum(texts)


def test_the_header_counts_what_is_there(tmp_path):
    cut = Document("cut", " sat", (Span(0, 2, "good", {"s": None}), Span(2, 4, "bad", {"s": 1.0})))
    shard = write_tokens(tmp_path / "a", [*DOCUMENTS, cut], encoder(dropout_share=0.2, seed=5))
    header = shard.header
    assert header["documents"] == shard.num_documents
    assert header["tokens"] == shard.num_tokens
    assert header["text_tokens"] == shard.num_text_tokens
    assert header["tags"] == int((shard.flags & 1).sum())
    assert header["scored_tokens"] == int((shard.flags & 4 != 0).sum())
    assert header["text_bytes"] == sum(len(d.text.encode()) for d in [*DOCUMENTS, cut])
    assert header["text_bytes"] == vocabulary().token_bytes[shard.ids].sum()
    assert header["tokens"] == header["text_tokens"] + header["tags"] + header["documents"]
    assert header["shifted_tags"] == encoder(dropout_share=0.2, seed=5)([cut])[0].num_shifted
    assert header["encoder"] == {
        "score": "s", "tagging": "own", "all_mode": None, "dropout_share": 0.2,
        "bare_documents_share": 0.0, "again_every_tokens": None, "inline_share": None,
        "inline_modes": [], "seed": 5,
    }  # fmt: skip
    assert header["vocabulary"] == vocabulary().fingerprint


def test_batches_do_not_show_in_the_files_and_stay_small(tmp_path, monkeypatch):
    write_tokens(tmp_path / "one", DOCUMENTS, encoder(dropout_share=0.3))
    monkeypatch.setattr(shards, "BATCH_CHARS", 150)
    sizes = []
    call = Encoder.__call__

    def watched(self, documents):
        sizes.append([len(document.text) for document in documents])
        return call(self, documents)

    monkeypatch.setattr(Encoder, "__call__", watched)
    write_tokens(tmp_path / "many", iter(DOCUMENTS), encoder(dropout_share=0.3))
    assert len(sizes) > 2
    assert all(sum(batch[:-1]) < 150 for batch in sizes)
    assert all(sum(batch) >= 150 for batch in sizes[:-1])
    assert files(tmp_path / "one") == files(tmp_path / "many")


@settings(max_examples=25, deadline=None)
@given(
    st.one_of(
        st.tuples(st.just(GOOD_BAD), st.lists(marked(), min_size=1, max_size=4)),
        st.tuples(st.just(TWO_MODES), st.lists(enclosed(), min_size=1, max_size=4)),
    )
)
def test_taking_the_tags_off_is_encoding_without_them(tmp_path_factory, case):
    scheme, documents = case
    fields = {"vocabulary": vocabulary(scheme), "score": "s" if scheme is GOOD_BAD else None}
    folder = tmp_path_factory.mktemp("tokens")
    own = write_tokens(folder / "own", documents, Encoder(**fields))
    none = write_tokens(folder / "none", documents, Encoder(**fields, tagging="none"))
    assert same(untagged(own), none)
    assert untagged(own).header == none.header
    assert same(untagged(none), none)


def test_counting_in_chunks_changes_no_count(tmp_path, monkeypatch):
    shard = write_tokens(tmp_path / "a", DOCUMENTS, encoder())
    expected = untagged(shard)
    monkeypatch.setattr(shards, "CHUNK_TOKENS", 7)
    again = read_tokens(tmp_path / "a")
    assert again.text_lengths.tolist() == shard.text_lengths.tolist()
    assert same(untagged(again), expected)


def test_a_large_vocabulary_is_stored_in_four_bytes(tmp_path):
    chars = pre_tokenizers.ByteLevel.alphabet()
    pairs = [(a, b) for a in sorted(chars) for b in sorted(chars)]
    vocab = {token: i for i, token in enumerate([*sorted(chars), *(a + b for a, b in pairs)])}
    tokenizer = Tokenizer(models.BPE(vocab, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    large = Vocabulary(tokenizer, GOOD_BAD)
    shard = write_tokens(tmp_path / "a", [lines("d", "ab\xff")], Encoder(vocabulary=large))
    assert shard.ids.dtype == np.uint32
    assert large.open_id("bad") in shard.ids.tolist()
    assert large.decode(shard.ids.tolist()).text == "ab\xff"


def test_a_shard_cannot_be_written_into(tmp_path):
    shard = write_tokens(tmp_path / "a", DOCUMENTS, encoder())
    with pytest.raises(ValueError, match="read-only"):
        shard.ids[0] = 0


def test_what_fails_leaves_nothing_behind(tmp_path):
    def broken():
        yield from DOCUMENTS
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tokens(tmp_path / "a", broken(), encoder())
    with pytest.raises(DataError, match="document 'bad'"):
        write_tokens(tmp_path / "a", [*DOCUMENTS, Document("bad", "\ud800")], encoder())
    with pytest.raises(DataError, match=r"id of document '\\ud800'"):
        write_tokens(tmp_path / "a", [Document("\ud800", "")], encoder())
    with pytest.raises(DataError, match="no documents"):
        write_tokens(tmp_path / "a", [], encoder())
    with pytest.raises(DataError, match="no span has a score 'typo'; the documents have: s"):
        write_tokens(tmp_path / "a", DOCUMENTS, Encoder(vocabulary=vocabulary(), score="typo"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    write_tokens(tmp_path / "a", DOCUMENTS, encoder())
    before = files(tmp_path / "a")
    with pytest.raises(DataError, match="exists already"):
        write_tokens(tmp_path / "a", DOCUMENTS[:1], encoder())
    assert files(tmp_path / "a") == before


def edit_header(**changes):
    def edit(folder):
        header = json.loads((folder / "header.json").read_bytes())
        (folder / "header.json").write_text(json.dumps(header | changes))

    return edit


def cut(name):
    def edit(folder):
        (folder / name).write_bytes((folder / name).read_bytes()[:-1])

    return edit


def move_an_offset(folder):
    offsets = np.fromfile(folder / "offsets.bin", dtype="<i8")
    offsets[1] = offsets[2]
    offsets.tofile(folder / "offsets.bin")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "header.json").unlink(), "no token shard"),
        (lambda folder: (folder / "header.json").write_text("{}"), "is no header"),
        (lambda folder: (folder / "header.json").write_text("{"), "is no header"),
        (edit_header(schema_version=9), "schema version 9"),
        (edit_header(id_type="uint8"), "is no header"),
        (edit_header(tokens=5), "the header says"),
        (lambda folder: (folder / "mode.bin").unlink(), "mode.bin: has 0 bytes"),
        (cut("ids.bin"), "the header says"),
        (cut("flags.bin"), "the header says"),
        (move_an_offset, "does not divide"),
        (lambda folder: (folder / "documents.txt").write_text('"a"\n'), "has 1 ids for"),
    ],
)
def test_a_damaged_shard_is_refused(tmp_path, damage, said):
    write_tokens(tmp_path / "a", DOCUMENTS, encoder())
    damage(tmp_path / "a")
    with pytest.raises(DataError, match=said):
        read_tokens(tmp_path / "a")
