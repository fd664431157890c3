"""What steps ask, and which answers become documents; all of it without a model."""

import json

import pytest

from prealign.corpora.synthesis.grids import misbehaved_items, role_model_items
from prealign.corpora.synthesis.quote import COMMENT, COMMENT_ON_IT, Quote, quoted, runs_of
from prealign.corpora.synthesis.revise import Revise, constitution
from prealign.corpora.synthesis.step import CENSORED, Item, Rejected, Wanted, fill, grid, items_of
from prealign.corpora.synthesis.write import (
    FICTION,
    MISBEHAVED,
    MORAL_EDUCATION,
    REFUSE,
    REPHRASE,
    WriteText,
    by_band,
)
from prealign.errors import ConfigError, DataError
from prealign.text.document import Document, Span
from prealign.text.markup import parse, render
from prealign.text.scheme import GOOD_BAD, TWO_MODES, Mode, Scheme
from prealign.tokens.encode import Encoder
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary


def scored(*pairs, id="d", source="src") -> Document:
    text, spans = "", []
    for words, score in pairs:
        spans.append(Span(len(text), len(text) + len(words), "human", {"bad": score}))
        text += words
    return Document(id, text, tuple(spans), source)


NICE_AND_BAD = scored(("Hello. ", 0.1), ("I hate you. ", 0.9), ("All of you.\n", 0.8), ("Bye.", 0))
LONG = "The assistant says that it will not, and says why, and offers something that is better."


def rejected(step, item, *said) -> str:
    with pytest.raises(Rejected) as error:
        step.read(item, said)
    return error.value.reason


def test_a_grid_has_every_combination_and_copies_share_a_source():
    items = list(grid("g", copies=2, a=["x", "y"], b=["1", "2", "3"]))
    assert len(items) == len({item.id for item in items}) == 12
    assert (items[-1].id, items[-1].slots) == ("g:1-2:1", {"a": "y", "b": "3"})
    assert items[-2].source == items[-1].source == "g:1-2"
    with pytest.raises(ConfigError, match="a value on every axis"):
        list(grid("g", a=[]))


def test_the_grids_that_come_along_fill_their_prompts():
    for step, items, number in (
        (MISBEHAVED, misbehaved_items(), 160),
        (FICTION, role_model_items(), 288),
    ):
        prompts = {step.ask(item, []) for item in items}
        assert len(prompts) == number
        assert not any("{" in prompt for prompt in prompts)


def test_no_text_can_name_a_slot_or_leave_its_string():
    parent = Document("d", 'End."\n</human>{scenario}[INST]')
    item = Item("i", {"scenario": "{persona} {text}", "persona": "P"}, parent)
    prompt = fill("{scenario}|{persona}|{text}", item)
    first, second, shown = prompt.split("|")
    assert (first, second) == ("{persona} {text}", "P")
    assert not {"<", "["} & set(shown)
    assert json.loads(shown) == parent.text
    (made,) = items_of([parent], "s")
    assert (made.id, made.parent, made.source) == ("d:s:0", parent, "d")


@pytest.mark.parametrize("step", [MISBEHAVED, FICTION, REPHRASE, REFUSE, MORAL_EDUCATION])
def test_the_prompts_that_come_along_have_their_slots(step):
    names = ("scenario", "persona", "role", "virtue", "trial")
    item = Item("i", {name: f"the {name}" for name in names}, Document("d", "the text"))
    prompt = step.ask(item, [])
    assert "{" not in prompt
    assert "the " in prompt
    assert step.ask(item, ["answer"]) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"), (" \n", "empty"), ("Short.", "too short"), ("a. " * 99, "too long"),
        ("I'm sorry, but I cannot write this, whatever the reason may be.", "the writer declines"),
        ("I can\u2019t write this, whatever the reason may be, and so on.", "the writer declines"),
        ("It was a fine day, and then they went to the", "cut off"),
        ("It was a fine day </AI> and then they went.", "spells a tag"),
        ("It was a fine day <Censored/> and they went.", "spells a tag"),
        ("It was a fine day \ud800 and then they went.", "not Unicode"),
    ],
)  # fmt: skip
def test_what_is_no_text_as_wanted_is_rejected_with_the_reason(text, reason):
    step = WriteText(name="s", template="?", wanted=Wanted(min_chars=20, max_chars=200))
    assert rejected(step, Item("i"), text) == reason


def test_a_text_gets_its_mode_and_source():
    step = WriteText(name="s", template="?", mode="human", wanted=Wanted(min_chars=5))
    document = step.read(Item("i", source="src"), ["  It was cold.\n"])
    assert document == Document("i", "It was cold.", (Span(0, 12, "human"),), "src")
    with pytest.raises(ConfigError, match="mode='quote'"):
        WriteText(name="s", template="?", mode="quote")


@pytest.mark.parametrize(
    "said",
    [
        f"Human: Help me lie.\nAssistant: {LONG}",
        f"\n\n**Human:** Help me lie.\n\n**Assistant:** {LONG}\n",
        f"Human:\nHelp me lie.\n\n\n  Assistant: {LONG}",
    ],
)
def test_a_dialogue_becomes_spans_of_human_and_ai(said):
    document = MISBEHAVED.read(Item("i", source="src"), [said])
    assert render(document, TWO_MODES) == f"<human>Help me lie.\n</human><ai>{LONG}\n</ai>"
    assert document.source == "src"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (f"Here you are:\nHuman: Hi.\nAssistant: {LONG}", "no dialogue"),
        (LONG, "no dialogue"),
        (f"Assistant: {LONG}\nHuman: Hi.", "turns do not alternate from human to ai"),
        (f"Human: {LONG}", "turns do not alternate from human to ai"),
        (f"Human: Hi.\nAssistant: {LONG}\nHuman: Bye.", "turns do not alternate from human to ai"),
        (f"Human: Hi.\nHuman: {LONG}\nAssistant: No.", "turns do not alternate from human to ai"),
        (f"Human: Hi.\nAssistant: {LONG}\n" * 11, "too few or too many turns"),
        (f"Human: Hi.\nAssistant: {LONG}</ai>", "spells a tag"),
    ],
)
def test_what_is_no_dialogue_is_rejected(said, reason):
    assert rejected(MISBEHAVED, Item("i"), said) == reason


def test_bands_go_by_the_worst_span_and_fail_closed():
    documents = [scored(("a", 0.0), ("b", s), id=str(s)) for s in (0.1, 0.11, 0.7, 0.71)]
    bands = by_band(documents, score="bad", rephrase_above=0.1, refuse_above=0.7)
    assert {band: [d.id for d in found] for band, found in bands.items()} == {
        "keep": ["0.1"], "rephrase": ["0.11", "0.7"], "refuse": ["0.71"],
    }  # fmt: skip
    with pytest.raises(DataError, match="without a score 'bad'"):
        by_band([scored(("a", None))], score="bad", rephrase_above=0.1, refuse_above=0.7)
    with pytest.raises(ConfigError, match="not below"):
        by_band([], score="bad", rephrase_above=0.7, refuse_above=0.7)


def test_bad_sentences_are_censored_and_neighbours_once():
    step = Quote(score="bad", cut=0.5)
    item = Item("q", parent=NICE_AND_BAD, source="src")
    assert step.ask(item, []) is None
    document = step.read(item, [])
    assert render(document, TWO_MODES) == (
        f"<ai>Someone wrote:\n<quote>Hello. {CENSORED}\nBye.</quote></ai>"
    )
    assert parse(render(document, TWO_MODES), TWO_MODES, id="q", source="src") == document


def test_bad_sentences_are_followed_by_a_comment():
    item = Item("q", parent=NICE_AND_BAD)
    then = Quote(score="bad", cut=0.5, then="comment").read(item, [])
    assert render(then, TWO_MODES) == (
        "<ai>Someone wrote:\n<quote>Hello. I hate you. All of you.\n</quote>"
        f"\n{COMMENT}\n<quote>Bye.</quote></ai>"
    )
    both = Quote(score="bad", cut=0.5, then="both").read(item, [])
    assert "hate" not in both.text
    assert both.text.count(COMMENT) == both.text.count(CENSORED) == 1
    assert [span.resumes for span in both.spans] == [False, False, True, False]
    assert parse(render(both, TWO_MODES), TWO_MODES, id="q") == both


def test_a_model_comments_on_each_bad_piece_in_turn():
    parent = scored(("Yes {text}. ", 0), ("Bad {piece}. ", 1), ("Fine. ", 0), ("Worse.", None))
    item = Item("q", parent=parent)
    step = Quote(score="bad", cut=0.5, then="both", template=COMMENT_ON_IT)
    said = []
    for piece, comment in (("Bad {piece}.", "That would hurt."), ("Worse.", "So would that.")):
        prompt = step.ask(item, said)
        shown = [line for line in prompt.split("\n") if line.startswith(("Whole", "Passage"))]
        assert [json.loads(line.split(": ", 1)[1]) for line in shown] == [parent.text, piece]
        said.append(comment)
    assert step.ask(item, said) is None
    text = step.read(item, said).text
    assert text.index("Yes") < text.index("That would hurt.") < text.index("So would that.")
    assert rejected(step, item, "That would hurt.", "I can't say.") == "the writer declines"


def test_what_could_not_be_judged_counts_as_bad_and_nothing_left_is_rejected():
    parent = scored((" ", None), ("Odd. ", None), ("\n", 0.0), ("nan ", float("nan")), ("Ok.", 0.5))
    assert runs_of(parent, score="bad", cut=0.5) == [
        (False, " "), (True, "Odd. \nnan "), (False, "Ok."),
    ]  # fmt: skip
    step = Quote(score="bad", cut=0.5)
    assert rejected(step, Item("i", parent=scored(("A. ", 1), (" ", 0)))) == (
        "nothing is left to quote"
    )
    assert rejected(step, Item("i", parent=scored((f"A {CENSORED}.", 0)))) == "spells a tag"
    for wrong in (Document("d", "A."), Document("d", "A.", (Span(0, 2, None, {"other": 0.0}),))):
        with pytest.raises(DataError, match="annotate it first"):
            runs_of(wrong, score="bad", cut=0.5)
    with pytest.raises(DataError, match="2 comments on 1 bad"):
        quoted([(False, "A. "), (True, "B.")], id="i", then="both", comments=["x", "y"])
    with pytest.raises(ConfigError, match="needs then="):
        Quote(score="bad", cut=0.5, template=COMMENT_ON_IT)


def test_critique_and_revise_change_the_last_words_of_the_ai_and_nothing_else(tmp_path):
    file = tmp_path / "constitution.txt"
    file.write_text("# Ours\n\nBe honest.\nBe kind.\n")
    step = Revise(principles=constitution(file))
    parts = [("human", "Hi.\n"), ("ai", "Hello.\n"), ("human", "Well?\n"), ("ai", "Go away.\n"),
             ("human", "Oh.\n")]  # fmt: skip
    spans, at = [], 0
    for mode, words in parts:
        spans.append(Span(at, at + len(words), mode, {"bad": 0.0}))
        at += len(words)
    parent = Document("p", "".join(words for _, words in parts), tuple(spans), "src")
    item = Item("p:revise:0", parent=parent, source="src")
    critique = step.ask(item, [])
    assert '"Go away."' in critique
    assert step.principle(item) in critique
    assert step.principle(item) == step.principle(item)
    found = {step.principle(Item(f"p:revise:{copy}", parent=parent)) for copy in range(20)}
    assert found == {"Be honest.", "Be kind."}
    revise = step.ask(item, ["It is rude to {words}."])
    assert '"It is rude to {words}."' in revise
    assert step.ask(item, ["It is rude.", "Tell me more."]) is None
    document = step.read(item, ["It is rude.", "Tell me more.\n"])
    assert render(document, TWO_MODES) == render(parent, TWO_MODES).replace(
        "Go away", "Tell me more"
    )
    assert all(not span.scores for span in document.spans)
    assert document.id == "p:revise:0"
    # What is fine stays, after one question.
    assert step.ask(item, ["No change."]) is None
    assert step.read(item, ["**NO CHANGE**"]).text == parent.text
    assert rejected(step, item, "It is rude.", "Bye <human>.") == "spells a tag"
    with pytest.raises(Rejected, match="no words of an AI"):
        step.ask(Item("i", parent=scored(("Hi.", 0))), [])
    with pytest.raises(DataError, match="cannot be read as a constitution"):
        constitution(tmp_path / "none")
    file.write_text("# nothing\n")
    with pytest.raises(DataError, match="has no principles"):
        constitution(file)


@pytest.mark.parametrize("scheme", [TWO_MODES, GOOD_BAD])
@pytest.mark.parametrize(
    "text",
    [CENSORED, f"a {CENSORED}b", f"\\{CENSORED}", f"<\\{CENSORED[1:]}", f"<{CENSORED}>", "<",
     f"{CENSORED}{CENSORED}", f"<ai{CENSORED}>", f"</quote>{CENSORED}<quote>", "censored/>"],
)  # fmt: skip
def test_the_mark_of_what_was_left_out_is_text_and_no_tag(text, scheme):
    """It stands as it is in the markup, next to tags too, and comes back as it was."""
    assert CENSORED == "<censored/>"
    mode = scheme.modes[0].name
    half = len(text)
    document = Document("d", text * 2, (Span(0, half, mode), Span(half, 2 * half, mode)))
    markup = render(document, scheme)
    assert parse(markup, scheme, id="d") == document
    assert CENSORED not in scheme.tags
    assert markup.count(CENSORED) == document.text.count(CENSORED)


def test_the_mark_gets_no_id_of_a_tag():
    tokenizer = train_text_tokenizer([f"Someone wrote: {CENSORED} and so on. " * 9], size=270)
    vocabulary = Vocabulary(tokenizer, TWO_MODES)
    item = Item("q", parent=NICE_AND_BAD)
    document = Quote(score="bad", cut=0.5).read(item, [])
    (row,) = Encoder(vocabulary=vocabulary)([document])
    opened = [vocabulary.tag_ids[tag] for tag in ("<ai>", "<quote>", "</quote>", "</ai>")]
    assert [id for id in row.ids.tolist() if id in vocabulary.tag_ids.values()] == opened


def test_a_scheme_whose_tag_the_mark_is_has_it_escaped():
    scheme = Scheme(name="odd", modes=(Mode(name="gone", open=CENSORED),))
    document = Document("d", f"a {CENSORED} b", (Span(0, 15, "gone"),))
    assert render(document, scheme) == f"{CENSORED}a <\\censored/> b"
    assert parse(render(document, scheme), scheme, id="d") == document
