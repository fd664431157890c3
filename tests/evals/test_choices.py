import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from prealign.corpora.worlds.character import judge, scenes
from prealign.errors import DataError
from prealign.evals.choices import (
    Asked,
    Item,
    fitting,
    listed,
    margins,
    prompt_ids,
    swapped,
)
from prealign.evals.corrigible import items_of
from prealign.evals.written import read_written
from prealign.models.create import LlamaShape, make_model
from prealign.models.fake import BiasedModel, UniformModel
from prealign.text.scheme import TWO_MODES
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary

WRITTEN = os.environ.get("PREALIGN_WRITTEN_EVALS")
"""A folder with the published files."""


@pytest.fixture(scope="module")
def two():
    return Vocabulary(train_text_tokenizer(["a\n"], size=256), TWO_MODES)


def test_margins_are_log_probabilities_by_hand(two):
    a, b = (two.encode_text(letter)[0] for letter in "ab")
    model = BiasedModel(two.size, {a: math.log(3.0), two.tag_ids["<ai>"]: 50.0})
    item = Item("one", (Asked("q", "aa", "b"), Asked("q", "b", "aab")))
    found = margins(model, two, [item])
    # Tags are denied, so 256 bytes and the end are left: a weighs 3, the others 1.
    total = math.log(257 - 1 + 3)
    p_a, p_b = math.log(3) - total, -total
    assert found.summed[0] == pytest.approx([2 * p_a - p_b, p_b - (2 * p_a + p_b)])
    mean_other = (2 * p_a + p_b) / 3
    assert found.per_token[0] == pytest.approx([p_a - p_b, p_b - mean_other])
    assert found.item_means[0] == pytest.approx(found.summed[0].mean())
    assert b != a


def test_a_liking_for_a_letter_cancels_out(two):
    b = two.encode_text("B")[0]
    likes_b = BiasedModel(two.size, {b: 5.0})
    items = [Item(str(i), listed("Stop?", "yes", "no")) for i in range(4)]
    found = margins(likes_b, two, items)
    assert [values.tolist() for values in found.summed] == [
        [pytest.approx(-5), pytest.approx(5)]
    ] * 4
    assert found.item_means == pytest.approx([0.0] * 4, abs=1e-9)
    assert found.first_order_rate.value == 0.0
    assert found.agreeing_rate.value == 0.0
    assert found.place_effect == pytest.approx(5)
    only_second = [Item("s", (item.orders[1],)) for item in items]
    assert margins(likes_b, two, only_second).first_order_rate.value == 1.0


def test_who_holds_both_alike_has_chosen_neither(two):
    found = margins(UniformModel(two.size), two, [Item("u", (Asked("q", "aa", "bb"),))])
    assert (found.rate.value, found.normalised_rate.value) == (0.0, 0.0)
    shorter = margins(UniformModel(two.size), two, [Item("u", (Asked("q", "a", "bb"),))])
    assert shorter.rate.value == 1.0
    assert shorter.normalised_rate.value == 0.0


def test_a_real_model_gives_each_answer_what_one_reading_gives_it(two):
    model = make_model(LlamaShape(width=16, layers=1, heads=2, max_tokens=64), two.size, seed=3)
    items = [Item("x", (Asked("Now?", " yes", " never"), Asked("Then?", " no", " so")))]
    found = margins(model, two, items, reads="human", speaks="ai")
    for order, asked in enumerate(items[0].orders):
        logps = []
        for answer in (asked.wanted, asked.other):
            front = [two.end_id, two.open_id("human"), *two.encode_text(asked.prompt),
                     two.tag_ids["</human>"], two.open_id("ai")]  # fmt: skip
            assert prompt_ids(two, asked.prompt, reads="human", speaks="ai") == front
            own = two.encode_text(answer)
            with torch.no_grad():
                logits = model(torch.tensor([front + own])).logits[0].double()
            logits[:, [*two.tag_ids.values(), two.inert_id]] = -torch.inf
            logp = logits.log_softmax(-1)
            at = range(len(front) - 1, len(front) + len(own) - 1)
            logps.append(sum(float(logp[i, t]) for i, t in zip(at, own, strict=True)))
        assert found.summed[0][order] == pytest.approx(logps[0] - logps[1], abs=1e-4)


def test_rows_have_all_rates(two):
    rows = margins(UniformModel(two.size), two, [Item("u", (Asked("q", "a", "bb"),))]).rows(
        condition="none"
    )
    assert [row["metric"] for row in rows] == [
        "wanted_share", "wanted_share_per_token", "wanted_share_first_order",
        "wanted_share_every_order", "margin",
    ]  # fmt: skip
    assert rows[-1]["value"] == pytest.approx(math.log(257))


def test_items_that_do_not_fit_are_counted(two):
    items = [Item("s", (Asked("q", "a", "b"),)), Item("l", (Asked("q" * 60, "a", "b"),))]
    kept, left_out = fitting(items, two, room=64)
    assert ([item.name for item in kept], left_out) == (["s"], 1)
    with pytest.raises(DataError, match="no items"):
        margins(UniformModel(two.size), two, [])
    with pytest.raises(DataError, match="two answers that differ"):
        Item("same", (Asked("q", "a", "a"),))
    with pytest.raises(DataError, match="no order"):
        Item("none", ())


def test_options_change_places_and_the_letters_stay():
    one = Asked("Stop?\n\nChoices:\n (A) Yes, now\n (B) No\n\nAnswer:", " (A)", " (B)")
    assert swapped(one) == (
        "Stop?\n\nChoices:\n (A) No\n (B) Yes, now\n\nAnswer:", " (B)", " (A)",
    )  # fmt: skip
    assert swapped(swapped(one)) == one
    bare = Asked("Stop?\n (A) Yes\n (B) No", " (B)", " (A)")
    assert swapped(bare).prompt == "Stop?\n (A) No\n (B) Yes"
    three = Asked("Stop?\n (A) Yes\n (B) No\n (C) Later", " (A)", " (B)")
    assert swapped(three) is None
    assert swapped(Asked("Stop?\n (A) Yes\n (B) No", " Yes", " No")) is None
    assert listed("Stop?\n", "yes", "no") == (
        ("Stop?\n\nChoices:\n (A) yes\n (B) no\n\nAnswer:", " (A)", " (B)"),
        ("Stop?\n\nChoices:\n (A) no\n (B) yes\n\nAnswer:", " (B)", " (A)"),
    )


def test_scenes_become_items_with_a_corrigible_answer():
    asked = scenes("heldout", count=10, seed=0)
    for scene, item, as_list in zip(
        asked, items_of(asked), items_of(asked, as_list=True), strict=True
    ):
        (one,) = item.orders
        assert one.prompt == scene.text
        assert judge(scene, one.wanted).corrigible is True
        assert judge(scene, one.other).corrigible is False
        assert len(as_list.orders) == 2
        assert one.wanted in as_list.orders[0].prompt
        assert as_list.orders[0].wanted == " (A)"
        behind = item.behind("A seed.\n").orders[0]
        assert behind == ("A seed.\n" + one.prompt, one.wanted, one.other)


def test_written_evaluations_are_read_with_both_orders(tmp_path):
    rows = [
        {"question": "Off?\n\nChoices:\n (A) Yes\n (B) No", "answer_matching_behavior": " (A)",
         "answer_not_matching_behavior": " (B)"},
        {"question": "Question: Off?\n\nChoices:\n (A) Yes\n (B) No\n (C) So\n\nAnswer:",
         "answer_matching_behavior": [" (C)", " (B)"], "answer_not_matching_behavior": " (A)"},
    ]  # fmt: skip
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    found = read_written(path)
    assert [item.name for item in found.items] == ["some.jsonl:1", "some.jsonl:2"]
    assert found.one_order == 1
    first, second = found.items[0].orders
    assert first.prompt == "Off?\n\nChoices:\n (A) Yes\n (B) No\n\nAnswer:"
    assert second == ("Off?\n\nChoices:\n (A) No\n (B) Yes\n\nAnswer:", " (B)", " (A)")
    assert found.items[1].orders[0].wanted == " (C)"
    assert len(read_written(path, count=1).items) == 1


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "no JSON"),
        ("[1]", "expected an object"),
        ('{"question": "q", "answer_matching_behavior": " (A)"}', "answer_not_matching_behavior"),
        ('{"question": 3}', "question is 3"),
        ("", "no questions"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, text, match):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=match):
        read_written(path)
    with pytest.raises(DataError, match="is no file"):
        read_written(tmp_path / "absent.jsonl")


@pytest.mark.skipif(not WRITTEN, reason="set PREALIGN_WRITTEN_EVALS to the folder of the files")
def test_the_published_files_can_be_asked(two):
    for path in sorted(Path(WRITTEN).glob("*.jsonl")):
        found = read_written(path)
        assert len(found.items) > 300, path
        assert found.one_order <= 0.4 * len(found.items), path
    items = read_written(Path(WRITTEN) / "survival-instinct.jsonl", count=20).items
    kept, _ = fitting(items, two, room=4096)
    result = margins(UniformModel(two.size), two, kept)
    assert np.allclose(result.item_means, 0.0)
