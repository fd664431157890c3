"""Two modes on real text: parts apart, cuts where they are said to be, no bad `ai` span."""

import json
from dataclasses import replace

import pytest

from prealign.corpora.talks import Answered
from prealign.errors import ConfigError, DataError
from prealign.models.create import LlamaShape
from prealign.objectives.likelihood import Conditional
from prealign.recipes import two_modes_real as module
from prealign.recipes.two_modes import card_of
from prealign.recipes.two_modes_real import InDialogues, cut_of, mark, recipe
from prealign.score.classifier import Classifier
from prealign.text.document import Document, Span
from prealign.tokens.shards import read_tokens
from prealign.tokens.vocabulary import load_vocabulary
from prealign.train.loop import TrainOutcome

pytest.importorskip("sklearn", reason='needs pip install "prealign[labels]"')
NICE = ("thank you so much", "have a lovely day", "what a fine idea", "good luck to you")
RUDE = ("you stupid pig", "shut up you idiot", "what a dumb pig", "go away idiot")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    lines = ["text,label"]
    for i in range(400):
        lines.append(
            f"{(RUDE if i % 2 else NICE)[i // 2 % 4]} number {i},{'rude' if i % 2 else 'fine'}"
        )
        lines += [lines[-1]] if i < 40 else []  # as texts that were passed on are
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    with (folder / "talks.jsonl").open("w") as stream:
        for i in range(60):
            chosen = "shut up you stupid pig" if i == 20 else f"Thank you, number {i}."
            front = f"\n\nHuman: May I ask about {i}?\n\nAssistant: "
            row = {"chosen": front + chosen, "rejected": front + f"go away idiot {i}"}
            stream.write(json.dumps(row) + "\n")
            if (
                0 < i < 30 and i != 20
            ):  # as in HH-RLHF, where a dialogue is there after each of its turns
                more = {
                    key: talk + "\n\nHuman: And?\n\nAssistant: No." for key, talk in row.items()
                }
                stream.write(json.dumps(more) + "\n")
    return InDialogues(
        dialogues=folder / "talks.jsonl", labels=folder / "labels.csv", bad="rude", base="",
        shape=LlamaShape(width=32, layers=1, heads=2, max_tokens=512), vocab_size=320,
        num_heldout=5, bare_share=0.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def prepared(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    world.prepare(out)
    return out


def test_nothing_that_is_bad_is_in_an_ai_span_of_the_tokens(world, prepared):
    tokens, vocabulary = read_tokens(prepared / "tokens"), load_vocabulary(prepared / "vocabulary")
    modes = {mode.name: 1 + i for i, mode in enumerate(vocabulary.scheme.modes)}
    bad = tokens.score > 0
    assert bad.any()
    assert not bad[tokens.mode == modes["ai"]].any()
    said = [vocabulary.decode([int(i) for i in tokens.ids[a:b]])
            for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)]  # fmt: skip
    words = [d.text[s.start_char : s.end_char] for d in said for s in d.spans if s.mode == "ai"]
    assert words
    assert not any("pig" in text or "idiot" in text for text in words)


def test_the_judge_has_seen_nothing_of_what_it_judges(world, prepared):
    judge = world.judge(prepared)
    assert judge("shut up you idiot") is True
    assert judge("Thank you, number 3.") is False
    assert judge(" ... ") is None
    texts = world._labelled()
    seen = [one.text for name in ("fit", "judge", "check", "learn") for one in texts[name]]
    assert not {one.text for one in texts["heldout"]} & set(seen)
    own = [{one.text for one in texts[name]} for name in texts]
    assert len(set().union(*own)) == sum(map(len, own)) == 400
    facts = json.loads((prepared / "corpus.json").read_text())["judges"]
    assert facts["judge"]["recall"] > 0.9
    assert facts["fit"]["cut"] != facts["judge"]["cut"]


def test_questions_that_are_asked_are_of_no_dialogue_that_is_learnt(world, prepared):
    asked = {one.talk.text for one in world.asked(prepared, "plain", count=30, seed=0)}
    learnt = {
        d.text.splitlines()[0] + "\n" for d in world._dialogues() if module._part(d) == "train"
    }
    assert len(asked) > 3
    assert not asked & learnt
    again = world.asked(prepared, "villain", count=4, seed=0)
    assert [one.talk.text.splitlines()[-1] for one in again] == [
        one.talk.text.rstrip("\n") for one in world.asked(prepared, "plain", count=4, seed=0)
    ]


def test_held_out_groups_are_what_they_are_called(world, prepared):
    groups = dict(world.heldout(prepared))
    bad = [s.scores["bad"] for d in groups["people who do bad"] for s in d.spans[1:]]
    good = [s.scores["bad"] for d in groups["people who do not"] for s in d.spans[1:]]
    assert set(bad) == {1.0}
    assert set(good) == {0.0}
    assert all(d.spans[-1].mode == "ai" for d in groups["talks with AIs"])


def test_a_cut_lets_so_many_good_answers_by(world, prepared):
    judge = Classifier(prepared / "judge")
    answers = [f"good luck to you {i}" for i in range(99)] + ["you stupid pig"]
    checked = [Answered("what a dumb pig", True), Answered("have a lovely day", False)]
    found = cut_of(judge, answers, checked)
    called = sum(judge.probabilities(answers) > found["cut"])
    assert called == 2
    assert (found["precision"], found["recall"]) == (1.0, 1.0)


def test_what_an_assistant_says_that_is_bad_becomes_a_persons(prepared):
    text = "Hello?\nyou stupid pig\n"
    spans = (Span(0, 7, "human"), Span(7, len(text), "ai"))
    (found,) = mark([Document("d", text, spans)], Classifier(prepared / "fit"), max_good=0.5)
    assert [s.mode for s in found.spans] == ["human", "human"]
    assert [s.scores["bad"] for s in found.spans] == [0.0, 1.0]


def test_files_that_are_missing_or_too_short_are_said(world, prepared, tmp_path):
    with pytest.raises(ConfigError, match=r"needs two files: world\.dialogues="):
        InDialogues().prepare(tmp_path)
    lonely = tmp_path / "one.jsonl"
    lonely.write_text('{"chosen": "\\n\\nHuman: a?\\n\\nAssistant: b"}\n')
    with pytest.raises(DataError, match="too few to ask"):
        replace(world, dialogues=lonely).asked(prepared, "plain", count=1, seed=0)


@pytest.mark.parametrize("number", [1, 3, 12])
def test_too_little_is_said_before_any_model_is_trained(world, tmp_path, number):
    lines = world.dialogues.read_text().splitlines()
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(lines[:number]) + "\n")
    with pytest.raises(DataError, match="too few"):
        replace(world, dialogues=few).prepare(tmp_path / "run")
    assert not (tmp_path / "run" / "base").exists()


def test_threads_are_counted_by_dialogue_with_or_without_a_rejected_answer(world, prepared):
    pairs = world._dialogues()
    chosen = [one for one in pairs if not one.id.endswith(":rejected")]
    made = [
        [d.id for d in world._documents(prepared, world._labelled(), talks, part="train")
         if d.id.startswith("thread-")]
        for talks in (pairs, chosen)
    ]  # fmt: skip
    train = {d.source for d in pairs if module._part(d) == "train"}
    assert len(made[0]) == len(made[1]) == 2 * len(train)


def test_a_models_card_names_where_it_began_and_what_it_read_but_no_folder(world):
    settings = replace(recipe(), world=replace(world, base="smollm2"))
    outcome = TrainOutcome(steps=7, text_tokens=1234, loss_nats=2.0)
    card = card_of(settings, "mle", 3, Conditional(), settings.train, outcome)
    assert '"base": "smollm2"' in card
    assert '"dialogues": ".../talks.jsonl"' in card
    assert "text tokens read: 1,234; steps: 7." in card
    assert str(world.dialogues.parent) not in card
