"""Ids: text never reaches a tag's, decoding reads tags as markup does, saving keeps meaning."""

import json
import pickle
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from prealign.errors import ConfigError, DataError
from prealign.text.document import Document, Span
from prealign.text.scheme import GOOD_BAD, TWO_MODES, Mode, Scheme
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary, load_vocabulary
from tests.tokens.documents import AWKWARD, SCHEMES, texts, vocabulary


@settings(max_examples=200, deadline=None)
@given(texts, st.sampled_from(SCHEMES))
def test_untrusted_text_never_encodes_to_an_id_beyond_text(text, scheme):
    ids = vocabulary(scheme).encode_text(text)
    assert max(ids, default=0) < vocabulary(scheme).text_size
    assert vocabulary(scheme).decode_text(ids) == text


def test_eight_threads_share_one_vocabulary_without_a_leak():
    shared = Vocabulary(vocabulary(TWO_MODES).tokenizer, TWO_MODES)
    jobs = [f"{text} {number} {text}" for number in range(150) for text in AWKWARD]
    expected = [vocabulary(TWO_MODES).encode_text(job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(shared.encode_text, jobs)) == expected
    assert max(map(max, expected)) < shared.text_size


def test_a_token_that_spells_a_tag_is_still_text():
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=259, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(["<ai>"], trainer)
    greedy = Vocabulary(trained, TWO_MODES)
    (token,) = greedy.encode_text("<ai>")
    assert greedy.token_texts[token] == b"<ai>"
    assert token < greedy.text_size < greedy.tag_ids["<ai>"]
    assert greedy.decode([greedy.end_id, token]) == Document("", "<ai>")


def test_batches_are_encoded_as_single_texts_are():
    assert vocabulary().encode_texts(AWKWARD) == [vocabulary().encode_text(t) for t in AWKWARD]


def test_ids_lie_behind_the_text_in_the_order_of_the_scheme():
    v = vocabulary(TWO_MODES)
    tags = ["<human>", "</human>", "<ai>", "</ai>", "<quote>", "</quote>"]
    assert dict(v.tag_ids) == {tag: v.text_size + 1 + i for i, tag in enumerate(tags)}
    assert (v.end_id, v.inert_id, v.size) == (330, 337, 338)
    assert v.open_id("quote") == v.tag_ids["<quote>"]
    with pytest.raises(DataError, match="mode 'good' is not in scheme"):
        v.open_id("good")


@settings(max_examples=100, deadline=None)
@given(texts)
def test_the_bytes_of_tokens_add_up_to_those_of_the_text(text):
    ids = vocabulary().encode_text(text)
    assert vocabulary().token_bytes[ids].sum() == len(text.encode())


def test_ids_without_text_have_no_bytes_and_newlines_are_known():
    v = vocabulary()
    assert v.token_bytes.shape == (v.size,)
    assert v.token_bytes.dtype == np.int32
    assert (v.token_bytes[v.text_size :] == 0).all()
    assert (v.token_bytes[: v.text_size] > 0).all()
    for line in ("x\n", "x\r\n", "\n"):
        assert v.encode_text(line)[-1] in v.newline_ids
    for text in ("x", "\r", "\n ", "\u2028", "\x0c"):
        assert v.encode_text(text)[-1] not in v.newline_ids


def test_what_is_no_text_is_not_decoded_as_text():
    v = vocabulary()
    for token, said in [
        (v.end_id, "the end of text"),
        (v.open_id("bad"), "the tag '<|bad|>'"),
        (v.inert_id, "the inert id"),
        (v.size, "no id of this vocabulary"),
        (-1, "no id of this vocabulary"),
    ]:
        with pytest.raises(DataError, match=f"id {token} at token 1 is {re.escape(said)}"):
            v.decode_text([0, token])


def test_a_lone_surrogate_is_refused():
    with pytest.raises(DataError, match=r"text 1: .*'\\udfff' at character 0"):
        vocabulary().encode_texts(["a", "\udfff"])


def ids_of(v, *pieces):
    """Tags by their literal, text by encoding: `Tag("<ai>")` is spelled (tag,)."""
    nested = [[v.tag_ids[p[0]]] if isinstance(p, tuple) else v.encode_text(p) for p in pieces]
    return [v.end_id, *(token for part in nested for token in part)]


def test_decoding_cuts_spans_at_marks():
    v = vocabulary()
    ids = ids_of(v, "no mode ", ("<|good|>",), "fine\n", ("<|bad|>",), ("<|good|>",), "<|bad|>")
    expected = (Span(0, 8), Span(8, 13, "good"), Span(13, 13, "bad"), Span(13, 20, "good"))
    assert v.decode(ids, id="x") == Document("x", "no mode fine\n<|bad|>", expected)


def test_decoding_follows_modes_that_enclose():
    v = vocabulary(TWO_MODES)
    ids = ids_of(
        v, ("<human>",), "hi", ("</human>",), ("<ai>",), "you said ", ("<quote>",), "hi",
        ("</quote>",), "!", ("</ai>",), " bye",
    )  # fmt: skip
    spans = (
        Span(0, 2, "human"), Span(2, 11, "ai"), Span(11, 13, "quote"),
        Span(13, 14, "ai", resumes=True), Span(14, 18),
    )  # fmt: skip
    assert v.decode(ids) == Document("", "hiyou said hi! bye", spans)


def test_decoding_closes_what_a_stopped_sample_left_open():
    v = vocabulary(TWO_MODES)
    ids = ids_of(v, ("<ai>",), "a", ("<quote>",), "b")
    assert v.decode(ids).spans == (Span(0, 1, "ai"), Span(1, 2, "quote"))


@pytest.mark.parametrize(
    "tags", [["</ai>"], ["<quote>"], ["<human>", "<ai>"], ["<human>", "</ai>"], ["<ai>", "<ai>"]]
)
def test_decoding_refuses_tags_that_the_scheme_forbids(tags):
    v = vocabulary(TWO_MODES)
    with pytest.raises(DataError, match="markup 'x'"):
        v.decode(ids_of(v, *((tag,) for tag in tags)), id="x")


def test_half_a_character_at_a_border_stays_in_its_span():
    v = vocabulary()
    first, second = ([v.token_texts.index(bytes([byte]))] for byte in "é".encode())
    good = v.open_id("good")
    assert v.decode([v.end_id, *first, *second]).text == "é"
    cut = v.decode([v.end_id, *first, good, *second, *v.encode_text("x")])
    assert cut == Document("", "\ufffd\ufffdx", (Span(0, 1), Span(1, 3, "good")))


def test_the_end_of_text_ends_the_document_and_only_padding_may_follow():
    v = vocabulary()
    ids = [v.end_id, *v.encode_text("x")]
    assert v.decode([*ids, v.end_id, v.inert_id, v.inert_id]) == Document("", "x")
    assert v.decode([*ids, v.inert_id]) == Document("", "x")
    assert v.decode([]) == v.decode([v.end_id]) == v.decode([v.end_id] * 2) == Document("", "")
    with pytest.raises(DataError, match="text id 5 at token 3 stands behind the end of text"):
        v.decode([*ids, v.end_id, 5])
    with pytest.raises(DataError, match=r"the tag .* behind the inert id"):
        v.decode([*ids, v.inert_id, v.open_id("bad")])
    with pytest.raises(DataError, match="no id of this vocabulary"):
        v.decode([*ids, v.size])


def test_a_vocabulary_survives_pickling_and_saving(tmp_path):
    v = vocabulary(TWO_MODES)
    v.save(tmp_path / "v")
    before = {file.name: file.read_bytes() for file in (tmp_path / "v").iterdir()}
    for other in (pickle.loads(pickle.dumps(v)), load_vocabulary(tmp_path / "v")):
        assert other == v
        assert hash(other) == hash(v)
        assert other.encode_texts(AWKWARD) == v.encode_texts(AWKWARD)
        other.save(tmp_path / "again")
        after = {file.name: file.read_bytes() for file in (tmp_path / "again").iterdir()}
        assert after == before
    assert set(before) == {"tokenizer.json", "scheme.json"}


def test_other_tokens_or_another_scheme_make_another_fingerprint():
    reverse = Scheme(name=GOOD_BAD.name, modes=GOOD_BAD.modes[::-1])
    found = [vocabulary(s).fingerprint for s in (GOOD_BAD, TWO_MODES, reverse)]
    found.append(vocabulary(GOOD_BAD, 331).fingerprint)
    assert len(set(found)) == 4
    assert vocabulary(GOOD_BAD) != vocabulary(reverse)


def swap_two_ids(folder):
    data = json.loads((folder / "tokenizer.json").read_bytes())
    vocab = data["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (folder / "tokenizer.json").write_text(json.dumps(data))


def rename_a_tag(folder):
    text = (folder / "scheme.json").read_text()
    (folder / "scheme.json").write_text(text.replace("<|bad|>", "<|evil|>"))


def move_the_end(folder):
    data = json.loads((folder / "scheme.json").read_bytes())
    data["ids"]["end"] += 1
    (folder / "scheme.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (swap_two_ids, "fingerprint"),
        (rename_a_tag, "fingerprint"),
        (move_the_end, "fingerprint"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "is no tokenizer"),
        (lambda folder: (folder / "scheme.json").write_text("[1"), "is no saved scheme"),
        (lambda folder: (folder / "scheme.json").write_text("[]"), "is no saved scheme"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda folder: (folder / "scheme.json").unlink(), "has no scheme.json"),
    ],
)
def test_a_vocabulary_that_was_tampered_with_is_not_loaded(tmp_path, damage, said):
    vocabulary().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=said):
        load_vocabulary(tmp_path)


def test_tokens_that_are_added_to_the_original_later_do_not_reach_the_vocabulary():
    original = train_text_tokenizer(["abc abc"], size=258)
    v = Vocabulary(original, GOOD_BAD)
    original.add_special_tokens(["<|good|>"])
    assert original.encode("<|good|>").ids == [v.end_id]
    assert max(v.encode_text("<|good|>")) < v.text_size


def test_a_tokenizer_that_was_changed_inside_is_caught_when_it_encodes():
    v = Vocabulary(vocabulary().tokenizer, GOOD_BAD)
    v.tokenizer.normalizer = normalizers.Strip()
    with pytest.raises(DataError, match="stand for 1 bytes, the text has 3"):
        v.encode_text(" x ")
    v.tokenizer.add_tokens(["<|good|>"])
    with pytest.raises(DataError, match=f"encodes to id {v.end_id}"):
        v.encode_text("<|good|>")


def test_more_modes_than_a_byte_can_count_are_refused():
    modes = tuple(Mode(name=str(i), open=f"<{i}>") for i in range(256))
    with pytest.raises(ConfigError, match="256 modes"):
        Vocabulary(vocabulary().tokenizer, Scheme(name="many", modes=modes))
