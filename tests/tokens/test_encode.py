"""Documents as ids: tags where markup puts them, text untouched by them, dropout by hash."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign.errors import ConfigError, DataError
from prealign.score.segment import Lines, Sentences, segment
from prealign.text.document import Document, Span
from prealign.text.markup import tagged
from prealign.text.scheme import GOOD_BAD, TWO_MODES, Scheme
from prealign.tokens.encode import END, SCORED, TAG, Encoder, uniform, uniform_tokens
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary
from tests.tokens.documents import CORPUS, enclosed, lines, marked, vocabulary, without_scores

anything = st.one_of(
    st.tuples(st.just(GOOD_BAD), marked()), st.tuples(st.just(TWO_MODES), enclosed())
)


def encode(document, scheme=GOOD_BAD, **settings):
    (encoded,) = Encoder(vocabulary=vocabulary(scheme), **settings)([document])
    return encoded


def one_by_one(document, scheme):
    """The layout in words: walk over the tokens; a tag waits for the first that starts at it."""
    v = vocabulary(scheme)
    text, names = document.text, {None: 0} | {m.name: i + 1 for i, m in enumerate(scheme.modes)}
    owner = {tag: names[mode.name] for mode in scheme.modes for tag in mode.tags}
    waiting, starts = [], []
    for tags, span in tagged(document, scheme):
        byte = len(text[: span.start_char if span else len(text)].encode())
        waiting += [(byte, v.tag_ids[tag], owner[tag]) for tag in tags]
        starts += [(byte, names[span.mode])] if span else []
    ids, modes, shifted, at = [v.end_id], [0], 0, 0
    for token in [*v.encode_text(text), None]:
        while waiting and waiting[0][0] <= at:
            byte, tag_id, mode = waiting.pop(0)
            ids.append(tag_id)
            modes.append(mode)
            shifted += byte < at
        if token is not None:
            ids.append(token)
            modes.append(next((mode for byte, mode in reversed(starts) if byte <= at), 0))
            at += int(v.token_bytes[token])
    return ids, modes, shifted


@settings(max_examples=250, deadline=None)
@given(anything)
def test_tags_stand_where_markup_puts_them(case):
    scheme, document = case
    encoded = encode(document, scheme)
    ids, modes, shifted = one_by_one(document, scheme)
    assert encoded.ids.tolist() == ids
    assert encoded.mode.tolist() == modes
    assert encoded.num_shifted == shifted


@settings(max_examples=150, deadline=None)
@given(anything)
def test_a_document_without_its_tags_is_its_text_encoded_without_tags(case):
    scheme, document = case
    own, none = encode(document, scheme, score="s"), encode(document, scheme, tagging="none")
    keep = (own.flags & TAG) == 0
    v = vocabulary(scheme)
    assert none.ids.tolist() == [v.end_id, *v.encode_text(document.text)]
    assert own.ids[keep].tolist() == none.ids.tolist()
    assert own.mode[keep].tolist() == none.mode.tolist()
    assert own.flags[0] == none.flags[0] == END
    assert none.num_shifted == 0
    tags = set(v.tag_ids.values())
    assert [token in tags for token in own.ids.tolist()] == ((own.flags & TAG) != 0).tolist()


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.tuples(st.just(GOOD_BAD), marked(modes=("good", "bad"))),
        st.tuples(st.just(TWO_MODES), enclosed()),
    )
)
def test_decoding_gives_the_document_back_where_no_tag_had_to_wait(case):
    scheme, document = case
    encoded = encode(document, scheme)
    decoded = vocabulary(scheme).decode(encoded.ids.tolist(), id=document.id)
    if encoded.num_shifted == 0:
        assert decoded == without_scores(document)
    text_ids = encoded.ids[encoded.flags == 0].tolist()
    assert vocabulary(scheme).decode_text(text_ids) == document.text


def test_a_border_inside_a_token_is_counted_and_the_tag_waits():
    v = vocabulary()
    (token,) = v.encode_text(" sat")
    document = Document(
        "d", " sat sat", (Span(0, 2, "good"), Span(2, 4, "bad"), Span(4, 8, "good"))
    )
    encoded = encode(document)
    good, bad = v.open_id("good"), v.open_id("bad")
    assert encoded.ids.tolist() == [v.end_id, good, token, bad, good, token]
    assert encoded.mode.tolist() == [0, 1, 1, 2, 1, 1]
    assert encoded.num_shifted == 1


def test_a_border_between_characters_of_several_bytes_shifts_nothing():
    text = "\u65e5\U0001f600e\u0301x"
    spans = tuple(Span(i, i + 1, "good") for i in range(len(text)))
    encoded = encode(Document("d", text, spans))
    assert encoded.num_shifted == 0
    assert vocabulary().decode(encoded.ids.tolist()).spans == spans


def test_lines_never_make_a_tag_wait():
    for text in CORPUS:
        document = lines("d", text)
        encoded = encode(document)
        v = vocabulary()
        parts = [v.encode_text(text[s.start_char : s.end_char]) for s in document.spans]
        pairs = zip(document.spans, parts, strict=True)
        ids = [token for span, part in pairs for token in (v.open_id(span.mode), *part)]
        assert encoded.ids.tolist() == [v.end_id, *ids]
        assert encoded.num_shifted == 0


def test_text_that_spells_a_tag_stays_text():
    v = vocabulary(TWO_MODES)
    text = "<ai>I am </ai><quote>"
    encoded = encode(Document("d", text, (Span(0, len(text), "human"),)), TWO_MODES)
    opening, closing = v.tag_ids["<human>"], v.tag_ids["</human>"]
    assert encoded.ids.tolist() == [v.end_id, opening, *v.encode_text(text), closing]
    assert v.decode(encoded.ids.tolist()).text == text


def test_scores_are_carried_by_the_tokens_and_opening_tags_of_their_span():
    spans = (
        Span(0, 2, "good", {"s": 0.0}),
        Span(2, 4, "bad", {"s": 2.5, "t": 9.0}),
        Span(4, 6, "bad", {"s": None}),
        Span(6, 8, None, {}),
    )
    encoded = encode(Document("d", "a\nb\nc\nd\n", spans), score="s")
    tag, scored = TAG, SCORED
    expected = [END, tag | scored, scored, scored, tag | scored, scored, scored, tag, 0, 0, 0, 0]
    assert encoded.flags.tolist() == expected
    assert encoded.score.tolist() == [0, 0, 0, 0, 2.5, 2.5, 2.5, 0, 0, 0, 0, 0]
    assert (encode(Document("d", "a\nb\nc\nd\n", spans)).flags & SCORED == 0).all()
    dtypes = [getattr(encoded, name).dtype for name in ("ids", "mode", "score", "flags")]
    assert dtypes == [np.int32, np.uint8, np.float32, np.uint8]


def test_a_closing_tag_has_its_own_mode_and_no_score():
    spans = (Span(0, 1, "human", {"s": 1.0}), Span(1, 2, "ai", {"s": 2.0}))
    encoded = encode(Document("d", "ab", spans), TWO_MODES, score="s")
    assert encoded.mode.tolist() == [0, 1, 1, 1, 2, 2, 2]
    assert encoded.score.tolist() == [0, 1, 1, 0, 2, 2, 0]


@pytest.mark.parametrize("score", [math.nan, math.inf, -1e39])
def test_a_score_that_float32_cannot_hold_is_refused(score):
    with pytest.raises(DataError, match="document 'd', span 0: score 's' is"):
        encode(Document("d", "a", (Span(0, 1, "good", {"s": score}),)), score="s")


def test_every_span_can_be_given_one_mode():
    document = lines("d", "a\nb\nc\n")
    good = document.with_modes(["good"] * 3)
    assert encode(document, all_mode="good").ids.tolist() == encode(good).ids.tolist()
    nested = Document(
        "d", "abc", (Span(0, 1, "ai"), Span(1, 2, "quote"), Span(2, 3, "ai", {}, True))
    )
    each = Document("d", "abc", tuple(Span(i, i + 1, "ai") for i in range(3)))
    all_ai, apart = encode(nested, TWO_MODES, all_mode="ai"), encode(each, TWO_MODES)
    assert all_ai.ids.tolist() == apart.ids.tolist()


def test_dropout_is_the_same_in_batches_of_any_size_and_order():
    documents = [lines(f"doc {i}", "x\ny\n" * (i % 5)) for i in range(40)]
    encoder = Encoder(vocabulary=vocabulary(), dropout_share=0.4, seed=3)
    whole = [encoded.ids.tolist() for encoded in encoder(documents)]
    alone = [encoder([document])[0].ids.tolist() for document in documents]
    backwards = [encoded.ids.tolist() for encoded in encoder(documents[::-1])][::-1]
    assert whole == alone == backwards
    assert encoder([]) == []


def test_dropout_leaves_out_its_share_of_tags_and_nothing_else():
    document = lines("d", "x\n" * 4000)
    full = encode(document)
    fewer = encode(document, dropout_share=0.3, seed=1)
    kept = int(((fewer.flags & TAG) != 0).sum())
    assert abs(kept - 0.7 * 4000) < 5 * math.sqrt(4000 * 0.3 * 0.7)
    for encoded in (full, fewer):
        text = (encoded.flags & TAG) == 0
        assert encoded.mode[text].tolist() == full.mode[(full.flags & TAG) == 0].tolist()
    assert fewer.ids.tolist() != encode(document, dropout_share=0.3, seed=2).ids.tolist()
    assert ((encode(document, dropout_share=1.0).flags & TAG) == 0).all()


def test_a_tag_that_is_kept_at_a_higher_share_is_kept_at_a_lower_one():
    document = lines("d", "x\n" * 200)
    kept = []
    for share in (0.6, 0.2):
        ids = encode(document, dropout_share=share).ids.tolist()
        text = vocabulary().decode(ids)
        kept.append({span.start_char for span in text.spans if span.mode})
    assert kept[0] < kept[1]


def test_some_documents_have_no_tag_at_all_and_the_others_all_of_theirs():
    documents = [lines(str(i), "x\ny\nz\n") for i in range(400)]
    encoded = Encoder(vocabulary=vocabulary(), bare_documents_share=0.25, seed=1)(documents)
    tags = [int((one.flags & TAG != 0).sum()) for one in encoded]
    assert set(tags) == {0, 3}
    assert 70 < tags.count(0) < 130
    assert all((one.mode > 0).any() for one in encoded)
    other = Encoder(vocabulary=vocabulary(), bare_documents_share=0.25, seed=2)(documents)
    assert tags != [int((one.flags & TAG != 0).sum()) for one in other]


@settings(max_examples=150, deadline=None)
@given(marked(), st.integers(1, 4), st.sampled_from([0.0, 0.5]))
def test_a_span_repeats_its_tag_after_every_so_many_tokens(document, every, dropout):
    more = {"score": "s", "dropout_share": dropout}
    once, again = encode(document, **more), encode(document, again_every_tokens=every, **more)
    expected, tag, since = [], None, 0
    for token, flags, mode in zip(once.ids, once.flags, once.mode, strict=True):
        if flags & TAG:
            tag, since = (token, mode), 0
        elif tag is not None and mode == tag[1]:
            if since and since % every == 0:
                expected.append(tag[0])
            since += 1
        else:
            tag = None
        expected.append(token)
    if dropout == 0:  # else the walk cannot tell a span without its tag from the one before it
        assert again.ids.tolist() == expected
    text = (again.flags & TAG) == 0
    for column in ("ids", "mode", "score", "flags"):
        kept = getattr(once, column)[(once.flags & TAG) == 0].tolist()
        assert getattr(again, column)[text].tolist() == kept
    assert again.num_shifted == once.num_shifted


def test_a_repeated_tag_has_the_mode_and_score_of_its_span():
    v = vocabulary()
    document = Document("d", "ababab", (Span(0, 6, "bad", {"s": 0.5}),))
    text = v.encode_text("ababab")
    encoded = encode(document, score="s", again_every_tokens=2)
    bad = v.open_id("bad")
    assert (
        encoded.ids.tolist()
        == [v.end_id, bad, *text[:2], bad, *text[2:4], bad, *text[4:]][
            : 1 + len(text) + -(-len(text) // 2)
        ]
    )
    tags = (encoded.flags & TAG) != 0
    assert encoded.score[tags].tolist() == [0.5] * int(tags.sum())
    assert (encoded.flags[tags] == TAG | SCORED).all()
    assert (encoded.mode[tags] == 2).all()


def test_inline_tags_stand_before_their_share_of_the_tokens_of_some_modes_alone():
    document = lines("d", "x\n" * 6000)
    inline = encode(document, inline_share=0.05, inline_modes=("bad",), seed=3)
    tags = np.flatnonzero(inline.flags & TAG)
    assert set(inline.ids[tags]) == {vocabulary().open_id("bad")}
    # The next token that is no tag is bad text.
    assert (inline.mode[tags] == 2).all()
    assert (inline.mode[tags + 1] == 2).all()
    bad_text = int(((inline.mode == 2) & ((inline.flags & TAG) == 0)).sum())
    assert abs(len(tags) - 0.05 * bad_text) < 5 * math.sqrt(bad_text * 0.05 * 0.95)
    without = encode(document, tagging="none")
    assert inline.ids[(inline.flags & TAG) == 0].tolist() == without.ids.tolist()
    again = encode(document, inline_share=0.05, inline_modes=("bad",), seed=4)
    assert again.ids.tolist() != inline.ids.tolist()
    # Where tags stand does not depend on the documents beside this one.
    pair = Encoder(vocabulary=vocabulary(), inline_share=0.05, inline_modes=("bad",), seed=3)(
        [lines("e", "y\n"), document]
    )
    assert pair[1].ids.tolist() == inline.ids.tolist()


def test_dropped_tags_are_not_put_inline_either():
    document = lines("d", "x\n" * 300)
    more = {"inline_share": 1.0, "inline_modes": ("bad",)}
    every = encode(document, **more)
    bad_text = int(((every.mode == 2) & ((every.flags & TAG) == 0)).sum())
    assert int((every.flags & TAG != 0).sum()) == bad_text
    fewer = encode(document, dropout_share=0.5, **more)
    assert 0 < int((fewer.flags & TAG != 0).sum()) < bad_text
    assert not (encode(document, bare_documents_share=1.0, **more).flags & TAG).any()


def test_the_hash_of_dropout_is_the_same_on_every_machine():
    draws = [uniform(name, index, seed) for name, index, seed in [("a", 0, 0), ("\u65e5", 7, -1)]]
    assert draws == [0.4189000096786685, 0.18478743756399119]
    assert len({uniform("a", 11, 0), uniform("a1", 1, 0), uniform("1a", 1, 0)}) == 3
    assert uniform_tokens("a", 3, 0).tolist() == uniform_tokens("a", 5, 0)[:3].tolist()
    assert uniform_tokens("a", 2, 0).tolist() == [0.14485755299619396, 0.7555549502168865]


def test_settings_that_contradict_each_other_are_refused():
    v, two = vocabulary(), vocabulary(TWO_MODES)
    for more in (
        {"dropout_share": 0.1},
        {"again_every_tokens": 4},
        {"inline_share": 0.1, "inline_modes": ("ai",)},
    ):
        with pytest.raises(ConfigError, match=r"mode 'human'.*each opening tag needs its closing"):
            Encoder(vocabulary=two, **more)
    with pytest.raises(ConfigError, match="again_every_tokens=0: must be at least 1"):
        Encoder(vocabulary=v, again_every_tokens=0)
    with pytest.raises(ConfigError, match="inline_share=0: expected a share"):
        Encoder(vocabulary=v, inline_share=0, inline_modes=("bad",))
    with pytest.raises(ConfigError, match="give both"):
        Encoder(vocabulary=v, inline_share=0.1)
    with pytest.raises(DataError, match="mode 'ai' is not in scheme"):
        Encoder(vocabulary=v, inline_share=0.1, inline_modes=("ai",))
    with pytest.raises(ConfigError, match=r"dropout_share=-0\.1"):
        Encoder(vocabulary=v, dropout_share=-0.1)
    with pytest.raises(ConfigError, match=r"bare_documents_share=1\.5"):
        Encoder(vocabulary=v, bare_documents_share=1.5)
    with pytest.raises(ConfigError, match="dropout_share=nan"):
        Encoder(vocabulary=v, dropout_share=math.nan)
    with pytest.raises(ConfigError, match="tagging='all'"):
        Encoder(vocabulary=v, tagging="all")
    with pytest.raises(ConfigError, match="drop one of them"):
        Encoder(vocabulary=v, all_mode="good", tagging="none")
    with pytest.raises(DataError, match="mode 'ai' is not in scheme"):
        Encoder(vocabulary=v, all_mode="ai")


def test_documents_that_cannot_be_encoded_are_named():
    with pytest.raises(DataError, match=r"document 'x': has the lone surrogate '\\ud800'"):
        encode(Document("x", "\ud800"))
    with pytest.raises(DataError, match=r"document 'x', span 0.*stands outside of 'ai'"):
        encode(Document("x", "a", (Span(0, 1, "quote"),)), TWO_MODES)
    with pytest.raises(DataError, match="mode 'ai' is not in scheme"):
        encode(Document("x", "a", (Span(0, 1, "ai"),)), Scheme(name="one", modes=GOOD_BAD.modes))


def test_sentences_and_lines_begin_where_tokens_do():
    text = "One went home. Two stayed there!  Three (why?) left.\n\nFour:\n  five. Six.\n" * 3
    texts = [text, "She left. He wept. They went home. Two (why?) stayed.\n"]
    vocabulary = Vocabulary(train_text_tokenizer(texts * 3, size=290), GOOD_BAD)
    for segmenter in (Sentences(), Lines()):
        document = segment(Document("d", text), segmenter)
        document = document.with_modes(["good"] * len(document.spans))
        (encoded,) = Encoder(vocabulary=vocabulary)([document])
        assert encoded.num_shifted == 0
