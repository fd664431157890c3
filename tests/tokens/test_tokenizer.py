"""The text tokenizer: lossless, deterministic, line by line; unfit ones are refused."""

import json

import pytest
from hypothesis import given, settings
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from prealign.errors import ConfigError, DataError
from prealign.tokens.tokenizer import (
    BYTE_OF,
    NEVER_IN_UTF8,
    adopt_tokenizer,
    check_text_tokenizer,
    token_texts,
    train_text_tokenizer,
)
from tests.tokens.documents import CORPUS, texts, vocabulary


@pytest.fixture
def tokenizer():
    return Tokenizer.from_str(vocabulary().tokenizer.to_str())


@settings(max_examples=300, deadline=None)
@given(texts)
def test_decoding_gives_every_text_back(text):
    tokenizer = vocabulary().tokenizer
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@settings(max_examples=150, deadline=None)
@given(texts, texts)
def test_a_line_has_the_same_tokens_alone_and_among_others(first, second):
    encode = vocabulary().encode_text
    # "\r" before "\n" belongs to the break, so the border between lines is behind both.
    assert encode(first + "\n" + second) == encode(first + "\n") + encode(second)


def test_a_line_break_is_a_token_of_its_own():
    breaks = [text for text in vocabulary(size=390).token_texts if b"\n" in text]
    assert set(breaks) <= {b"\n", b"\r\n"}
    assert b"\n" in breaks


def test_digits_stand_alone_and_indentation_is_one_token():
    texts = vocabulary(size=390).token_texts
    encode = vocabulary(size=390).encode_text
    assert all(len(text) == 1 for text in texts if any(48 <= byte <= 57 for byte in text))
    assert len(encode("    ")) == 1
    # The same indentation in front of any word, and the word as at the start of a line.
    assert encode("    return") == encode("    ") + encode("return")


def test_merges_stay_within_words_numbers_indentation_and_punctuation():
    text = "    for _ in a__b.__c__: x += 12\t\t# (it's)\r\n\r\n"
    found = vocabulary().tokenizer.pre_tokenizer.pre_tokenize_str(text)
    pieces = [text[start:end] for _, (start, end) in found]
    assert pieces == [
        "    ", "for", " _", " in", " a", "__b", ".", "__c", "__", ":", " x", " +=", " ", "1", "2",
        "\t\t", "#", " (", "it", "'", "s", ")", "\r\n", "\r\n",
    ]  # fmt: skip


def test_the_same_texts_in_any_order_give_the_same_file():
    first = train_text_tokenizer(CORPUS, size=330).to_str()
    assert train_text_tokenizer(iter(CORPUS), size=330).to_str() == first
    assert train_text_tokenizer(CORPUS[::-1], size=330).to_str() == first


def test_the_bytes_of_ids_are_those_of_the_library(tokenizer):
    assert set(BYTE_OF) == set(pre_tokenizers.ByteLevel.alphabet())
    for token_id, text in enumerate(token_texts(tokenizer)):
        assert tokenizer.decode([token_id]) == text.decode(errors="replace")


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(ConfigError, match="size=255"):
        train_text_tokenizer(CORPUS, size=255)
    with pytest.raises(DataError, match="only enough pairs for 257 ids"):
        train_text_tokenizer(["ab"], size=300)
    with pytest.raises(DataError, match=r"training text 1: .*'\\ud800' at character 2"):
        train_text_tokenizer(["fine", "ab\ud800"], size=300)


def test_a_tokenizer_of_another_make_passes_if_it_loses_nothing(tokenizer):
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel()
    check_text_tokenizer(tokenizer)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, tokenizer.pre_tokenizer])
    check_text_tokenizer(tokenizer)


def _sequence(*stages):
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*stages, byte_level])


UNFIT = {
    "added tokens": lambda t: t.add_tokens(["zzz"]),
    "added tokens.*<ai>": lambda t: t.add_special_tokens(["<ai>"]),
    "normalizer.*Lowercase": lambda t: setattr(t, "normalizer", normalizers.Lowercase()),
    "normalizer.*NFKC": lambda t: setattr(t, "normalizer", normalizers.NFKC()),
    "truncation": lambda t: t.enable_truncation(8),
    "padding": lambda t: t.enable_padding(),
    "add_prefix_space": lambda t: setattr(
        t, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)
    ),
    "'Split', which may change": lambda t: setattr(
        t, "pre_tokenizer", _sequence(pre_tokenizers.Split(Regex(" "), "removed"))
    ),
    "'WhitespaceSplit', which may change": lambda t: setattr(
        t, "pre_tokenizer", _sequence(pre_tokenizers.WhitespaceSplit())
    ),
    "ends its pre-tokenizers with.*Split": lambda t: setattr(
        t, "pre_tokenizer", pre_tokenizers.Split(Regex(" "), "isolated")
    ),
    "post_processor 'TemplateProcessing'": lambda t: setattr(
        t, "post_processor", processors.TemplateProcessing(single="a $A", special_tokens=[("a", 1)])
    ),
}


@pytest.mark.parametrize("said", UNFIT)
def test_a_tokenizer_that_could_change_text_is_refused(tokenizer, said):
    UNFIT[said](tokenizer)
    with pytest.raises(DataError, match=said):
        check_text_tokenizer(tokenizer)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"unk_token": "a"}, "unk_token"),
        ({"dropout": 0.1}, "dropout"),
        ({"ignore_merges": True}, "ignore_merges"),
        ({"byte_fallback": True}, "byte_fallback"),
    ],
)
def test_a_bpe_that_is_more_than_its_merges_is_refused(tokenizer, change, said):
    data = json.loads(tokenizer.to_str())
    data["model"] |= change
    with pytest.raises(DataError, match=said):
        check_text_tokenizer(Tokenizer.from_str(json.dumps(data)))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda vocab: vocab.pop("Ā"), "none with id"),
        (lambda vocab: vocab.update({"half": 9999}), "none with id 330"),
        (lambda vocab: vocab.update({"漢": 330}), "id 330 is '漢'"),
        (lambda vocab: vocab.update({"": 330}), "id 330 is ''"),
        (lambda vocab: vocab.update({"zz": vocab.pop("Ā")}), "no token for byte 0"),
    ],
)
def test_ids_that_stand_for_no_bytes_are_refused(tokenizer, edit, said):
    data = json.loads(tokenizer.to_str())
    edit(data["model"]["vocab"])
    alone = models.BPE(vocab=data["model"]["vocab"], merges=[])
    broken = Tokenizer.from_str(tokenizer.to_str())
    broken.model = alone
    with pytest.raises(DataError, match=said):
        check_text_tokenizer(broken)


def test_a_word_list_is_refused(tokenizer):
    tokenizer.model = models.WordLevel({"<ai>": 0, "[UNK]": 1}, unk_token="[UNK]")
    with pytest.raises(DataError, match=r"not BPE.*WordLevel"):
        check_text_tokenizer(tokenizer)


def foreign(tokenizer, specials=("<|start|>", "<file_sep>"), lacking=()):
    """A tokenizer as models come with: special tokens within its ids, bytes without one."""
    data = json.loads(tokenizer.to_str())
    vocab = {name: i for i, name in enumerate(specials)}
    stand_ins = {char for char, byte in BYTE_OF.items() if byte in lacking}
    kept = [token for token in data["model"]["vocab"] if token not in stand_ins]
    vocab |= {token: len(specials) + i for i, token in enumerate(kept)}
    data["model"] |= {"vocab": vocab, "unk_token": specials[0] if specials else None}
    data["added_tokens"] = [
        {"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for i, name in enumerate(specials)
    ]  # fmt: skip
    return Tokenizer.from_str(json.dumps(data))


@settings(max_examples=100, deadline=None)
@given(texts)
def test_an_adopted_tokenizer_encodes_as_before_where_no_tag_is_spelled(text):
    before = foreign(vocabulary().tokenizer)
    adopted = adopt_tokenizer(before)
    if "<|start|>" not in text and "<file_sep>" not in text:
        assert adopted.encode(text).ids == before.encode(text).ids
    assert adopted.decode(adopted.encode(text).ids, skip_special_tokens=False) == text


def test_what_spells_a_special_token_is_text_in_an_adopted_tokenizer(tokenizer):
    text = "so <|start|> it <file_sep> is"
    before = foreign(tokenizer)
    adopted = adopt_tokenizer(before)
    assert {0, 1} & set(before.encode(text).ids)
    assert not {0, 1} & set(adopted.encode(text).ids)
    assert adopted.decode(adopted.encode(text).ids, skip_special_tokens=False) == text


def test_bytes_without_an_id_take_over_those_of_special_tokens_the_last_first(tokenizer):
    adopted = adopt_tokenizer(foreign(tokenizer, lacking=(4, 0xC0)))
    assert adopted.encode("\x04").ids == [1]
    assert adopted.encode("a\x04b").ids[1] == 1
    assert token_texts(adopted)[0] == b"<|start|>"
    assert 0xC0 in NEVER_IN_UTF8
    with pytest.raises(DataError, match="no ids for 3 bytes of text, and only 2 special ids"):
        adopt_tokenizer(foreign(tokenizer, lacking=(4, 5, 6)))


def test_added_tokens_that_merges_make_keep_their_ids(tokenizer):
    before = foreign(tokenizer, lacking=(4,))
    word = max(before.get_vocab(), key=lambda token: (token.isalpha(), len(token)))
    before.add_tokens([word, "e"])
    adopted = adopt_tokenizer(before)
    assert adopted.encode("\x04").ids == [1]
    assert adopted.token_to_id(word) == before.token_to_id(word)
    more = foreign(tokenizer, lacking=(4, 5, 6))
    more.add_tokens([word])
    with pytest.raises(DataError, match="only 2 special ids"):
        adopt_tokenizer(more)


def test_a_word_list_is_not_adopted():
    with pytest.raises(DataError, match="is WordLevel, not BPE"):
        adopt_tokenizer(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
