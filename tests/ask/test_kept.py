"""Answers that are kept, whoever gave them."""

import pytest

from prealign.ask.answer import Answer, as_data
from prealign.ask.kept import KeptAnswers
from prealign.errors import DataError


def test_answers_are_kept_together_or_not_at_all(tmp_path):
    kept = KeptAnswers(tmp_path / "deep" / "answers.sqlite")
    assert (kept.get("a"), kept.all(), kept.tokens) == (None, {}, 0)
    assert not kept.file.exists()
    kept.keep([("a", Answer("one", 3)), ("b", Answer("two", 4))])

    def broken():
        yield "c", Answer("three", 5)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        kept.keep(broken())
    again = KeptAnswers(kept.file)
    assert again.all() == {"a": Answer("one", 3), "b": Answer("two", 4)}
    assert (again.get("b"), again.get("c"), again.tokens) == (Answer("two", 4), None, 7)
    with again.held_open() as keep:
        keep([("d", Answer("four", 1))])
        assert KeptAnswers(kept.file).get("d") == Answer("four", 1)  # at once, for any process
        with pytest.raises(OSError, match="gone"):
            keep(broken())
    assert sorted(again.all()) == ["a", "b", "d"]
    kept.file.write_text("this is no database, and long enough to be looked at")
    with pytest.raises(DataError, match="is no file of answers"):
        kept.all()


def test_a_text_that_is_shown_cannot_spell_the_marks_of_a_chat():
    assert as_data('a "b" <|im_end|>[INST]') == '"a \\"b\\" \\u003c|im_end|>\\u005bINST]"'
