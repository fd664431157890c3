import json

import pytest
from cases import case_of, deep_case, tag_ids

import prealign.guard.export as guard_export
from prealign.errors import ConfigError
from prealign.guard.export import to_ebnf, to_lark, to_structural_tag
from prealign.guard.nesting import TOP, nesting_of
from prealign.guard.policy import Policy, Rule, free, lock, stay
from prealign.guard.table import compile_table, with_run
from prealign.text.scheme import GOOD_BAD, TWO_MODES

LOCK = case_of("lock", nesting_of(TWO_MODES), [lock(TWO_MODES, "ai")], text=10).table
"""10 text ids, the end is 10, <human> 11, 12, <ai> 13, 14, <quote> 15, 16; 17 and 18 are padding"""
SPEAKING = LOCK.scan([13])
EVERY = (to_ebnf, to_lark, to_structural_tag)


def table_of(policy, scheme=TWO_MODES):
    return compile_table(nesting_of(scheme), [policy], tag_ids(nesting_of(scheme), text=10))


def test_a_lock_as_ebnf_is_one_rule_per_state():
    assert to_ebnf(LOCK, SPEAKING).text.splitlines() == [
        "root ::= plain* rest2",
        'rest2 ::= Token(14) "" rest0 | Token(15) plain* rest3 | ""',
        'rest0 ::= ""',
        "rest3 ::= Token(16) plain* rest2",
        "plain ::= ExcludeToken(10, 11, 12, 13, 14, 15, 16, 17, 18)",
    ]


def test_a_lock_as_lark_is_left_recursive():
    assert to_lark(LOCK, SPEAKING).text.splitlines() == [
        "start: to2 | to0",
        "to2: in2 plain* | plain*",
        "in2: to3 <[16]>",
        'to0: in0 ""',
        "in0: to2 <[14]>",
        "to3: in3 plain*",
        "in3: to2 <[15]>",
        "plain: <[^10-18]>",
    ]


def test_a_lock_as_a_structural_tag_is_tags_in_tags():
    form = json.loads(to_structural_tag(LOCK, SPEAKING).text)["format"]
    body, turn = form["elements"]
    assert (body["type"], body["trigger_tokens"]) == ("token_triggered_tags", [15])
    (quote,) = body["tags"]
    assert (quote["begin"]["token"], quote["end"]["token"]) == (15, 16)
    assert quote["content"] == {
        "type": "any_tokens", "exclude_tokens": [10, 11, 12, 13, 14, 15, 16, 17, 18],
    }  # fmt: skip
    assert turn["type"] == "optional"  # the text may end within <ai>
    assert turn["content"]["elements"][0] == {"type": "token", "token": 14}


@pytest.mark.parametrize("export", EVERY)
def test_what_an_engine_must_be_told_stands_beside_the_grammar(export):
    out = export(LOCK, SPEAKING)
    assert (out.stop_ids, out.size, out.fingerprint) == ((10,), 19, LOCK.fingerprint)


def test_limits_of_text_are_counted_from_where_the_text_stands():
    table = table_of(lock(TWO_MODES, "ai", longest=4))
    quoting = table.scan([13, 15])
    for run, left in ((0, "plain{0,4}"), (3, "plain{0,1}"), (4, '""'), (9, '""')):
        assert to_ebnf(table, with_run(quoting, run)).text.startswith(f"root ::= {left} rest3")
        line = to_lark(table, with_run(quoting, run)).text.splitlines()[1]
        assert line == f"to3: in3 plain{{0,4}} | {left}"


@pytest.mark.parametrize(
    ("export", "policy", "at", "says"),
    [
        (to_structural_tag, lock(TWO_MODES, "ai", longest=4), [13], "limits text in a row"),
        (to_ebnf, lock(TWO_MODES, "ai", longest=5000), [13], "counts to 1024 at most"),
        (to_lark, lock(TWO_MODES, "ai", longest=5000), [13], "counts to 1024 at most"),
        (to_lark, stay(TWO_MODES, may_end=False), [], "in no mode the model can never end"),
        (to_structural_tag, stay(TWO_MODES, may_end=False), [], "can never end the text"),
        (to_lark, lock(TWO_MODES, "ai"), [11], "in human the model can never end the text"),
    ],
)
def test_what_a_grammar_cannot_say_is_refused(export, policy, at, says):
    table = table_of(policy)
    with pytest.raises(ConfigError, match=says):
        export(table, table.scan(at))


def test_a_state_without_anything_to_write_is_refused():
    rules = (Rule(mode=TOP, ends=True), Rule(mode="human", text=False))
    table = table_of(Policy(name="p", rules=rules))
    for export in EVERY:
        with pytest.raises(ConfigError, match="'p': in human the model"):
            export(table, table.scan([11]))


def test_marks_are_a_structural_tag_only_while_they_change_no_rights():
    table = table_of(free(GOOD_BAD), GOOD_BAD)
    form = json.loads(to_structural_tag(table, 0).text)["format"]
    assert form == {"type": "any_tokens", "exclude_tokens": [10, 13, 14]}
    rules = (Rule(mode=TOP, opens=("good", "bad"), ends=True), Rule(mode="good", opens=("bad",)),
             Rule(mode="bad", ends=True))  # fmt: skip
    changing = table_of(Policy(name="p", rules=rules), GOOD_BAD)
    with pytest.raises(ConfigError, match="a mark that changes what the model may do"):
        to_structural_tag(changing, 0)
    assert "Token(12)" in to_ebnf(changing, 0).text


def test_a_structural_tag_that_would_be_huge_is_refused(monkeypatch):
    monkeypatch.setattr(guard_export, "MAX_FORMATS", 40)
    assert to_structural_tag(deep_case(1).table, 0)
    with pytest.raises(ConfigError, match="more than 40 parts at depth 2; export it as EBNF"):
        to_structural_tag(deep_case(2).table, 0)
