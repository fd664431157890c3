"""Messages as ids, and which policies may be offered."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from prealign.guard.nesting import nesting_of
from prealign.guard.policy import Rule, lock
from prealign.guard.table import compile_table, ids_of, table_of
from prealign.text.scheme import GOOD_BAD, TWO_MODES, Mode, Scheme
from prealign.tokens.vocabulary import Vocabulary

ValidationError = pytest.importorskip("pydantic").ValidationError
pytest.importorskip("prealign.serve", reason='needs pip install "prealign[serve]"')
prompts = pytest.importorskip("prealign.serve.prompts")
policies = pytest.importorskip("prealign.serve.policies")
schema = pytest.importorskip("prealign.serve.schema")
problems = pytest.importorskip("prealign.serve.problems")


def messages(*pairs):
    return [schema.Message(role=role, content=content) for role, content in pairs]


def renderer(vocabulary, own, others, room=100):
    return prompts.Renderer(vocabulary=vocabulary, own=own, others=others, room=room)


def shown(vocabulary, ids):
    """Ids as a text in which tags stand in brackets of their own kind."""
    names = {token: f"[{tag}]" for tag, token in vocabulary.tag_ids.items()}
    names[vocabulary.end_id] = "[end]"
    return "".join(names.get(token) or vocabulary.decode_text([token]) for token in ids)


TALK = (
    ("system", "Be kind."), ("user", "<ai>hi</ai>"), ("assistant", "Hello."), ("user", "\n"),
)  # fmt: skip


def test_in_modes_that_enclose_everybody_speaks_in_the_own_one(vocabulary):
    ids = renderer(vocabulary, "ai", "human").chat(messages(*TALK))
    assert shown(vocabulary, ids) == (
        "[end][<human>]Be kind.[</human>][<human>]<ai>hi</ai>[</human>][<ai>]Hello.[</ai>]"
        "[<human>]\n[</human>][<ai>]"
    )
    table_of(vocabulary, lock(TWO_MODES, "ai")).scan(ids)
    quoting = renderer(vocabulary, "quote", "human").chat(messages(("assistant", "So.")))
    assert shown(vocabulary, quoting) == "[end][<ai>][<quote>]So.[</quote>][</ai>][<ai>][<quote>]"


def test_where_modes_only_mark_the_text_comes_first_then_the_mark(vocabulary):
    marks = Vocabulary(vocabulary.tokenizer, GOOD_BAD)
    one = renderer(marks, "good", None)
    assert shown(marks, one.chat(messages(*TALK))) == (
        "[end]Be kind.\n<ai>hi</ai>\n[<|good|>]Hello.\n\n[<|good|>]"
    )
    assert shown(marks, one.completion("def", "prompt")) == "[end]def[<|good|>]"
    assert shown(marks, renderer(marks, None, None).completion("def", "prompt")) == "[end]def"


def test_others_speak_as_humans_or_in_the_first_mode_that_is_not_the_models():
    assert prompts.others_mode(TWO_MODES, "ai") == "human"
    assert prompts.others_mode(TWO_MODES, "quote") == "human"
    assert prompts.others_mode(TWO_MODES, "human") == "ai"
    assert prompts.others_mode(GOOD_BAD, "good") is None
    other = Scheme(
        name="x",
        modes=(Mode(name="a", open="<a>", close="</a>"), Mode(name="b", open="<b>", close="</b>")),
    )
    assert prompts.others_mode(other, "a") == "b"


def test_what_cannot_fit_is_not_even_encoded(vocabulary):
    one = renderer(vocabulary, "ai", "human", room=10)
    longest = max(map(len, vocabulary.token_texts))
    for ask in (
        lambda size: one.completion("x" * size, "prompt.0"),
        lambda size: one.chat(messages(("user", "x"), ("user", "x" * (size - 1)))),
    ):
        ask(10 * longest)
        with pytest.raises(problems.Problem, match="longer than the context has 10 tokens for"):
            ask(10 * longest + 1)
    with pytest.raises(problems.Problem, match="longer than the context has 10 tokens for"):
        one.chat(messages(*[("user", "")] * 10))
    with pytest.raises(problems.Problem, match="lone surrogate"):
        one.completion("\ud800", "prompt.0")


MANY = 30_000


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("ChatRequest", "{" + ",".join(f'"k{i}":0' for i in range(MANY)) + "}"),
        ("ChatRequest", '{"messages":[' + ",".join(["{}"] * MANY) + "]}"),
        (
            "ChatRequest",
            '{"messages":[{"role":"user","content":[' + ",".join(["{}"] * MANY) + "]}]}",
        ),
        ("CompletionRequest", '{"prompt":[' + ",".join(['0,""'] * MANY) + "]}"),
        ("CompletionRequest", '{"prompt":[' + ",".join(["[null]"] * MANY) + "]}"),
    ],
)
def test_a_body_that_is_wrong_in_many_places_is_refused_without_listing_them(
    kind, body
):  # fmt: skip
    """A megabyte of them would hold up the event loop, and so everybody, for seconds."""
    with pytest.raises(ValidationError) as caught:
        getattr(schema, kind).model_validate_json(body)
    listed = []
    error = SimpleNamespace(
        error_count=caught.value.error_count,
        errors=lambda **rest: listed.append(1) or caught.value.errors(**rest),
    )
    problem = problems.malformed(error)
    assert problem.status == 400
    assert len(problem.body["error"]["message"]) < 500
    assert not listed or caught.value.error_count() <= 100


def tighter(**changes):
    """A lock with other rules for quotes."""
    whole = lock(TWO_MODES, "ai")
    rules = tuple(replace(r, **changes) if r.mode == "quote" else r for r in whole.rules)
    return replace(whole, name="other", rules=rules)


@pytest.mark.parametrize(
    ("limit", "changes", "found"),
    [
        (None, {}, ""),
        (None, {"longest": 5}, ""),
        (5, {"longest": 5}, ""),
        (5, {"longest": 6}, "longer spans in ai/quote"),
        (5, {}, "longer spans in ai/quote"),
        (None, {"ends": True}, "end of text in ai/quote"),
    ],
)
def test_a_policy_is_laxer_if_it_allows_anything_more_anywhere(vocabulary, limit, changes, found):
    own = lock(TWO_MODES, "ai", longest=limit)
    table = compile_table(nesting_of(TWO_MODES), (own, tighter(**changes)), ids_of(vocabulary))
    assert policies.laxer(table, 1, 0) == found


def test_what_a_policy_allows_where_it_never_comes_does_not_count(vocabulary):
    """`stay` may write text where nothing is open; it is offered where `ai` is open for good."""
    table = policies.table_for(vocabulary, "lock", ("stay", "lock-noquote"), "ai")
    assert [policy.start for policy in table.policies] == [("ai",)] * 3
    names = ("lock", "lock ai", "stay", "lock-noquote", "free", "lock-noquote human")
    assert [policies.index_of(table, name) for name in names] == [0, 0, 1, 2, None, None]


def test_rules_that_only_the_server_has_do_not_count(vocabulary):
    more = replace(
        lock(TWO_MODES, "ai"), name="more",
        rules=(*(r for r in lock(TWO_MODES, "ai").rules if r.mode), Rule(mode="")),
    )  # fmt: skip
    table = compile_table(nesting_of(TWO_MODES), (more, lock(TWO_MODES, "ai")), ids_of(vocabulary))
    assert policies.laxer(table, 0, 1) == "text in no mode"
    assert policies.laxer(table, 1, 0) == "end of text in no mode"


def test_a_switch_waits_until_the_policy_knows_the_modes_that_are_open(vocabulary):
    """Within a quote `stay` may end the text, which the server's lock forbids."""
    table = policies.table_for(vocabulary, "lock", ("stay", "lock-noquote"), "ai")
    tags = vocabulary.tag_ids
    outside = table.scan(table.opening(0), table.start(0))
    inside = table.scan([tags["<quote>"]], outside)
    behind = table.scan([tags["</quote>"]], inside)
    for policy in (1, 2):
        change = policies.switching(table, policy)
        assert change(inside) is None
        assert change(behind) == change(outside) == table.switch(outside, policy)
    assert table.allowed(table.switch(inside, 1))[vocabulary.end_id]
    assert not table.allowed(inside)[vocabulary.end_id]
    assert policies.switching(table, 0)(inside) == inside
