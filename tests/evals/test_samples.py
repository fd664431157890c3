import math

import pytest
import torch

from prealign.errors import ConfigError
from prealign.evals.samples import (
    Condition,
    Writing,
    check_sampling,
    code_line_share,
    distinct_share,
    entropy_bits,
    judge,
    measure,
    parses_as_python,
    python_starts,
    real_writings,
    sample_row,
    whole_lines,
    write_samples,
)
from prealign.models.sample import Sampling
from prealign.score.quotes import SingleQuotes
from prealign.text.document import Document, Span

GOOD = Condition(name="good, each line", mode="good", again=True)


def writing(text: str, prompt: str = "", tokens: tuple[int, ...] = (1, 2)) -> Writing:
    return Writing("c", 0, prompt, prompt + text, "good", tokens, 0.25)


def measured(writings, **more):
    rows = measure(judge(writings, SingleQuotes()), unit="u", **more)
    return {row["metric"]: row["value"] for row in rows}


def test_the_score_is_of_the_continuation_alone():
    (one,) = judge([writing("x = 'a'\n", prompt="y = 'bbbb'\n")], SingleQuotes())
    assert one.score == pytest.approx(2 / 8)
    assert [finding.start_char for finding in one.findings] == [15, 17]


def test_an_empty_continuation_is_counted_and_not_scored_as_clean():
    values = measured([writing(""), writing("'", tokens=())])
    assert values["unscored"] == 1
    assert values["mean_score"] == 1.0


def test_nothing_scored_gives_no_score():
    assert "mean_score" not in measured([writing("")])


def test_codes_are_per_thousand_characters_of_all_samples():
    assert measured([writing("'a'\n"), writing("bcdefg")])["code:Q000"] == pytest.approx(200)


def test_expected_maximum_needs_enough_samples():
    assert "expected_max_25" not in measured([writing("a")] * 24)
    assert measured([writing("a")] * 24 + [writing("'")])["expected_max_25"] == 1.0


def test_diversity_by_hand():
    assert entropy_bits([(1, 2), (1, 3)]) == pytest.approx(1.5)
    assert distinct_share([(1, 2, 1, 2)], 2) == pytest.approx(2 / 3)
    assert entropy_bits([()]) is None
    assert distinct_share([(1,)], 2) is None


@pytest.mark.parametrize(
    ("text", "parses"),
    [("x = 1\n", True), ("", True), ("def f():\n", False), ("x = '\\d'\n", True), ("\0", False)],
)
def test_what_parses_as_python(text, parses):
    assert parses_as_python(text) is parses


def test_samples_hold_no_tag_and_end_at_a_line(model, vocabulary):
    settings = Sampling(max_text_tokens=60)
    writings = write_samples(model, vocabulary, GOOD, settings, count=6, seed=3)
    for one in writings:
        assert max(one.token_ids) < vocabulary.text_size
        assert one.text == "" or one.text.endswith("\n") or len(one.token_ids) < 60
        assert 0 <= one.pressure <= 1


def test_samples_depend_on_the_seed_alone(model, vocabulary):
    settings = Sampling(max_text_tokens=20)
    first = write_samples(model, vocabulary, GOOD, settings, count=4, seed=3, cut=False)
    again = write_samples(model, vocabulary, GOOD, settings, count=4, seed=3, cut=False)
    other = write_samples(model, vocabulary, GOOD, settings, count=4, seed=4, cut=False)
    assert [w.text for w in first] == [w.text for w in again]
    assert [w.text for w in first] != [w.text for w in other]


def test_a_prompt_that_spells_a_tag_stays_text(model, vocabulary):
    (one,) = write_samples(
        model, vocabulary, Condition(name="c"), Sampling(max_text_tokens=5), count=1, seed=0,
        prompts=[Document("p", "<|bad|> x\n")], cut=False,
    )  # fmt: skip
    assert one.text.startswith("<|bad|> x\n")


@pytest.mark.parametrize("tagged", [False, True])
def test_prompts_come_in_turn_with_their_tags_if_the_condition_says_so(model, vocabulary, tagged):
    seen = []

    class Recorder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.config = model, model.config

        def forward(self, input_ids, **rest):
            seen.append(input_ids)
            return self.inner(input_ids, **rest)

    prompts = [
        Document("p", "a\nb\n", (Span(0, 2, "bad"), Span(2, 4, "good"))),
        Document("q", "c\nd\n", (Span(0, 4, "good"),)),
    ]
    condition = Condition(name="c", mode="good", prompts="heldout", tagged_prompts=tagged)
    written = write_samples(
        Recorder(), vocabulary, condition, Sampling(max_text_tokens=1), count=3, seed=0,
        prompts=prompts, cut=False,
    )  # fmt: skip
    assert [one.prompt for one in written] == ["a\nb\n", "c\nd\n", "a\nb\n"]
    bad = vocabulary.open_id("bad")
    assert any((ids == bad).any() for ids in seen) == tagged


def test_a_cut_text_ends_with_its_last_whole_line_that_is_not_blank():
    assert whole_lines("a\n\nb\n \n\nc") == "a\n\nb\n"
    assert whole_lines("a\nb\n") == "a\nb\n"
    assert whole_lines("ab") == ""
    assert whole_lines("\n\n") == ""


def test_a_real_text_is_cut_like_a_sample(vocabulary):
    rest = "one line\n" * 30
    (short, long) = real_writings(
        "c", [("p\n", "b\n"), ("p\n", rest)], vocabulary, max_text_tokens=20
    )
    assert (short.text, short.prompt) == ("p\nb\n", "p\n")
    assert long.text.startswith("p\none line\n")
    assert long.text.endswith("\n")
    assert len(long.token_ids) == 20
    assert len(long.text) < len(rest)


def test_prompts_in_python_begin_where_functions_and_classes_do():
    text = "x = 1\n@d\ndef f():\n    def g(): pass\n\f\nclass A:\n    pass\n"
    assert [text[at:][:8] for at in python_starts(text)] == ["@d\ndef f", "class A:"]
    assert python_starts("def f(:\n") == []


def test_a_row_of_samples_has_its_spans_and_findings():
    (one,) = judge([writing("'b'\n", prompt="a\n")], SingleQuotes())
    row = sample_row(one)
    assert row["spans"] == [
        {"start": 0, "end": 2, "mode": None},
        {"start": 2, "end": 6, "mode": "good"},
    ]
    assert [(f["start"], f["code"]) for f in row["findings"]] == [(2, "Q000"), (4, "Q000")]
    assert math.isclose(row["score"], 0.5)


def test_a_tag_cannot_be_written_again_without_a_mode():
    with pytest.raises(ConfigError, match="again=True needs a mode"):
        Condition(name="x", again=True)


def test_our_sampling_path_passes_the_canary(vocabulary):
    assert check_sampling(vocabulary).ids > 100


def test_empty_and_comment_lines_are_no_code():
    assert code_line_share(["x = 1\n\n# c\n", "  # d\ny\n"]) == pytest.approx(2 / 5)
    assert code_line_share([""]) is None
