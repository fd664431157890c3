"""Vocabularies and documents for these tests: small, and as awkward as text can be."""

from functools import cache
from itertools import pairwise

from hypothesis import strategies as st

from prealign.text.document import Document, Span
from prealign.text.scheme import GOOD_BAD, TWO_MODES, Scheme
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary

CORPUS = [
    "def half(x):\n    return x / 2\n\n\nclass Caf\u00e9_Bar:\n\ta = 'n'\r\n        x = 10\n" * 2,
    "The cat sat on the mat. The dog, <human> or not, sat <|good|> there too <|good|>.\n" * 3,
    "\u65e5\u672c\u8a9e\u306e\u6587\u3002 <|bad|> </ai> \U0001f600 na\u00efve 12345\n" * 2,
    "Other voices, other rooms: nothing here is said twice without a reason, is it?\r\n",
]
AWKWARD = [
    "<|good|>", "<|bad|>", "<ai>", "</ai>", "<quote>", "<|go", "od|>", "<", ">", "<\\|good|>", "<>",
    "\uff1c\uff41\uff49\uff1e", "<\u200bai>", "<|GOOD|>", "\r\n", "\r", "\n", "\n\n", "    ",
    "\t\t", " ", "\x00", "\x1b[0m", "\u2028", "\x85", "\ufeff", "e\u0301", "\u0301", "\U0001f600",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u65e5\u672c", "\ufb00", "\u0130", "\u00bd",
    "\u0663", "foo_bar", "__init__", " _x", "123456", "[UNK]", "<s>", "<|endoftext|>",
]  # fmt: skip
CHARS = st.text(st.characters(codec="utf-8"), max_size=6)
texts = st.lists(st.one_of(CHARS, st.sampled_from(AWKWARD)), max_size=12).map("".join)


@cache
def vocabulary(scheme: Scheme = GOOD_BAD, size: int = 330) -> Vocabulary:
    return Vocabulary(train_text_tokenizer(CORPUS, size=size), scheme)


@st.composite
def marked(draw, modes=("good", "bad", None), text=texts):
    """A document with the marks of GOOD_BAD, cut anywhere, some spans empty."""
    body = draw(text)
    cuts = draw(st.lists(st.integers(0, len(body)), max_size=5).map(sorted))
    borders = [0, *cuts, len(body)]
    spans = tuple(
        Span(start, end, draw(st.sampled_from(modes)), {"s": draw(st.none() | st.just(0.5))})
        for start, end in pairwise(borders)
    )
    return Document(draw(st.text("abc", max_size=3)), body, spans)


@st.composite
def enclosed(draw, text=texts):
    """A document of TWO_MODES: human and ai spans, quotes inside ai, ai going on after them."""
    spans: list[Span] = []
    body = ""

    def add(mode, piece, resumes=False):
        nonlocal body
        spans.append(Span(len(body), len(body) + len(piece), mode, resumes=resumes))
        body += piece

    for mode in draw(st.lists(st.sampled_from(["human", "ai"]), max_size=3)):
        add(mode, draw(text))
        for _ in range(draw(st.integers(0, 2)) if mode == "ai" else 0):
            add("quote", draw(text))
            if after := draw(text):
                add("ai", after, resumes=True)
    return Document("d", body, tuple(spans))


def lines(document_id: str, text: str, *, every: int = 3) -> Document:
    """Cut a text at its newlines; every third line is bad."""
    spans, at = [], 0
    for index, line in enumerate(text.splitlines(keepends=True)):
        mode, score = ("bad", 1.5) if index % every == 0 else ("good", 0.0)
        spans.append(Span(at, at + len(line), mode, {"s": score}))
        at += len(line)
    return Document(document_id, text, tuple(spans))


def without_scores(document: Document) -> Document:
    spans = tuple(Span(s.start_char, s.end_char, s.mode, resumes=s.resumes) for s in document.spans)
    return Document(document.id, document.text, spans)


SCHEMES = (GOOD_BAD, TWO_MODES)
