from dataclasses import replace

import numpy as np
import pytest

from prealign.errors import ConfigError, DataError
from prealign.guard.policy import Policy, reemit, stay
from prealign.text.scheme import TWO_MODES
from prealign.tokens.vocabulary import Vocabulary


@pytest.mark.parametrize("may_end", [True, False])
def test_stay_allows_text_and_perhaps_the_end_and_nothing_else(vocabulary, may_end):
    policy = stay(vocabulary, may_end=may_end)
    allowed = {*range(vocabulary.text_size), *([vocabulary.end_id] if may_end else [])}
    assert set(range(vocabulary.size)) - set(policy.denied) == allowed
    assert policy.allowed == len(allowed)


def test_closing_tags_are_denied_too(vocabulary):
    enclosing = Vocabulary(vocabulary.tokenizer, TWO_MODES)
    assert {stay(enclosing).label(i) for i in enclosing.tag_ids.values()} == set(TWO_MODES.tags)


def test_the_fingerprint_changes_with_what_is_denied_and_with_the_vocabulary(vocabulary):
    other = Vocabulary(vocabulary.tokenizer, TWO_MODES)
    marks = [stay(vocabulary), stay(vocabulary, may_end=False), stay(other)]
    assert len({policy.fingerprint for policy in marks}) == 3
    assert stay(vocabulary).fingerprint == stay(vocabulary).fingerprint


@pytest.mark.parametrize(
    "wrong", [{"denied": (3, 2)}, {"denied": (2, 2)}, {"denied": (2, 9)}, {"labels": ("a",)}]
)
def test_a_policy_that_makes_no_sense_is_refused(wrong):
    fine = Policy(name="p", denied=(2, 3), labels=("a", "b"), size=5, vocabulary="")
    with pytest.raises(ConfigError, match="denied"):
        replace(fine, **wrong)


def test_a_policy_must_allow_something():
    with pytest.raises(ConfigError, match="all 2 ids"):
        Policy(name="p", denied=(0, 1), labels=("a", "b"), size=2, vocabulary="")


def test_reemit_writes_the_tag_after_each_newline_and_nowhere_else(vocabulary):
    force = reemit(vocabulary, "bad")
    every = np.arange(vocabulary.size)
    written = force(every)
    assert written.dtype == np.int64
    for token, out in zip(every, written, strict=True):
        text = token < vocabulary.text_size and vocabulary.decode_text([int(token)])
        newline = bool(text) and text.endswith("\n")
        assert out == (vocabulary.open_id("bad") if newline else -1)
    assert (written >= 0).any()


def test_only_a_mark_can_be_written_again(vocabulary):
    with pytest.raises(ConfigError, match="encloses"):
        reemit(Vocabulary(vocabulary.tokenizer, TWO_MODES), "ai")
    with pytest.raises(DataError, match="'best'"):
        reemit(vocabulary, "best")
