"""Critique and revision, pairs by contrast, a judge of letters, and how deep a trait sits."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from transformers import PretrainedConfig

from prealign.errors import ConfigError, DataError, RunError
from prealign.guard.policy import stay
from prealign.models.chat import Chat
from prealign.posttrain.constitution import (
    Constitution,
    Principle,
    constitution_from_json,
    load_constitution,
)
from prealign.posttrain.contrast import Contrast, LetterJudge
from prealign.posttrain.critique import Critique, answers_of
from prealign.posttrain.relearn import relearn_steps
from prealign.posttrain.rollouts import Rollout, Stage
from prealign.posttrain.seeds import load_bank
from prealign.posttrain.supervise import Supervise
from prealign.text.scheme import TWO_MODES
from tests.posttrain.letters import (
    BANK,
    LETTERS,
    TASKS,
    VOCABULARY,
    a_model,
    a_stage,
    folder_at,
    right,
    score,
    train_settings,
    trained,
)


def a_principle(id="kind", **texts):
    usual = {"principle": "is kind", "opposite": "is rude", "critique": "where is it rude?",
             "revision": "say it kindly", "reason": "a test"}  # fmt: skip
    return Principle(id=id, **usual | texts)


SMALL = Constitution(name="small", version=1, principles=(a_principle(), a_principle("two")))


@dataclass(frozen=True, kw_only=True)
class Told(Stage):
    """A stage whose answers are a function of the task and of the seed."""

    calls: list = None

    def write(self, model, tasks, step, *, count, seed):
        if self.calls is not None:
            self.calls.append([task.document.text for task in tasks])
        found = []
        for task in tasks:
            prompts = self.prompts(task, step)
            text = self.answer(task.document.text, prompts.seeds["sample"])
            found.append(Rollout(task, prompts.ids, (), text, seeds=prompts.seeds))
        return found

    @staticmethod
    def answer(text, seed):
        if text.endswith("where is it rude?"):
            return f"rude: {len(text)}"
        if text.endswith("say it kindly"):
            return "" if text.startswith("b") else f" better {text[0]} "
        return f"draft {text} </ai> {seed.split('-')[-1]}"


def told(**changes):
    stage = a_stage()
    names = ("vocabulary", "policy", "bank", "contexts", "sampling", "seed_mode")
    return Told(**{name: getattr(stage, name) for name in names} | changes)


def test_a_draft_is_shown_then_its_critique_and_the_revision_is_learnt(tmp_path):
    calls = []
    critique = Critique(stage=told(calls=calls), tasks=TASKS, constitution=SMALL)
    rows = critique(a_model(), folder_at(tmp_path))
    drafts, asked, again = calls
    assert drafts == list(LETTERS)
    assert asked[0] == "a\n\nAnswer: draft a </ai> none\n\nwhere is it rude?"
    wanted = f"a\n\nAnswer: draft a </ai> none\n\nCritique: rude: {len(asked[0])}\n\nsay it kindly"
    assert again[0] == wanted
    assert [row.task for row in rows] == list(LETTERS)
    assert rows[0].revision == "better a"
    found = answers_of(TASKS, rows)
    assert found.answers == {"a": "better a", "c": "better c", "d": "better d"}
    assert (found.unchanged, len(found.tasks)) == (1, 3)
    Supervise(stage=a_stage(), tasks=found.tasks, answers=found.answers)


def test_what_was_interrupted_goes_on_and_is_the_same(tmp_path):
    critique = Critique(stage=told(), tasks=TASKS, constitution=SMALL, tasks_at_once=1)
    model = a_model()
    whole = critique(model, folder_at(tmp_path / "whole"))
    run = folder_at(tmp_path / "cut")
    replace(critique, tasks=TASKS[:2])(model, run)
    with (run.path / "revisions.jsonl").open("a") as stream:
        stream.write('{"task": "c", "torn')
    calls = []
    assert replace(critique, stage=told(calls=calls))(model, run) == whole
    assert [texts[0][0] for texts in calls] == ["c"] * 3 + ["d"] * 3
    lines = (run.path / "revisions.jsonl").read_text().splitlines()
    assert [json.loads(line)["task"] for line in lines] == list(LETTERS)


@pytest.mark.parametrize("what", ["model", "constitution", "seed"])
def test_rows_of_another_run_are_refused(tmp_path, what):
    critique = Critique(stage=told(), tasks=TASKS, constitution=SMALL)
    run, model = folder_at(tmp_path), a_model()
    critique(model, run)
    if what == "model":
        model = a_model(1)
    elif what == "seed":
        critique = replace(critique, seed=1)
    else:
        other = replace(SMALL, principles=SMALL.principles[:1])
        critique = replace(critique, constitution=other)
    with pytest.raises(RunError, match="another model or with other settings"):
        critique(model, run)


def test_rows_of_a_task_that_has_another_text_now_are_refused(tmp_path):
    critique = Critique(stage=told(), tasks=TASKS, constitution=SMALL)
    run, model = folder_at(tmp_path), a_model()
    rows = critique(model, run)
    assert replace(critique, tasks=TASKS[1:])(model, run) == rows[1:]
    document = replace(TASKS[0].document, text="A")
    changed = (replace(TASKS[0], document=document), *TASKS[1:])
    with pytest.raises(RunError, match="task 'a' had another text"):
        replace(critique, tasks=changed)(model, run)


def test_a_model_that_does_not_revise_is_told(tmp_path):
    rows = Critique(stage=told(), tasks=TASKS[1:2], constitution=SMALL)(
        a_model(), folder_at(tmp_path)
    )
    with pytest.raises(DataError, match=r"does not revise; use contrast\.Contrast,"):
        answers_of(TASKS[1:2], rows)


def test_a_real_model_writes_all_three_as_the_stage_says(tmp_path):
    seeded = a_stage("seeded")
    critique = Critique(stage=seeded, tasks=TASKS[:2], constitution=SMALL)
    with pytest.raises(DataError, match="more than the model's context of 64"):
        critique(a_model(), folder_at(tmp_path))


def test_chosen_answers_are_written_behind_the_principle_rejected_behind_its_opposite():
    found = Contrast(stage=told(), constitution=SMALL)(a_model(), TASKS)
    assert found.pairs["a"] == ("draft a </ai> trained", "draft a </ai> opposite")
    assert set(found.principles.values()) <= {"kind", "two"}
    assert (found.alike, len(found.tasks)) == (0, 4)

    class Same(Told):
        @staticmethod
        def answer(text, seed):
            return {"a": "same", "b": "" if seed.endswith("opposite") else "x"}.get(text, seed)

    stage = Same(**{k: v for k, v in vars(told()).items() if k in Told.__dataclass_fields__})
    found = Contrast(stage=stage, constitution=SMALL)(a_model(), TASKS)
    assert (found.alike, [task.id for task in found.tasks]) == (2, ["c", "d"])
    with pytest.raises(DataError, match="none with two answers that differ"):
        Contrast(stage=stage, constitution=SMALL)(a_model(), TASKS[:1])


def test_principles_stand_in_front_of_tasks_as_the_banks_seeds_do():
    prompts = []

    class Read(Told):
        def write(self, model, tasks, step, *, count, seed):
            prompts.extend(self.prompts(task, step).ids["sample"] for task in tasks)
            return super().write(model, tasks, step, count=count, seed=seed)

    fields = {k: v for k, v in vars(told()).items() if k in Told.__dataclass_fields__}
    own = fields | {"bank": replace(BANK, between="|"), "tagged": False, "seed_mode": None}
    Contrast(stage=Read(**own), constitution=SMALL)(a_model(), TASKS[:1])
    assert [VOCABULARY.decode_text(ids[1:]) for ids in prompts] == ["is kind|a", "is rude|a"]


class Liker(nn.Module):
    """Says A or B: a liking for a place, and one for the answer that has an x in it."""

    def __init__(self, place, liked):
        super().__init__()
        self.place, self.liked = place, liked
        self.config = PretrainedConfig(max_position_embeddings=4096)
        self.dummy = nn.Parameter(torch.zeros(1))

    @property
    def base_model(self):
        return self

    def get_output_embeddings(self):
        return lambda hidden_NV: hidden_NV

    def forward(self, input_ids, use_cache=False):
        logits = torch.zeros(*input_ids.shape, 256)
        for row, ids in enumerate(input_ids.tolist()):
            text = bytes(i for i in ids if i < 128).decode()
            first = text.partition("(A) ")[2].partition("\n")[0]
            second = text.partition("(B) ")[2].partition("\n")[0]
            gap = self.place + self.liked * (("x" in first) - ("x" in second))
            logits[row, :, ord("A")] = gap
        return type("Out", (), {"last_hidden_state": logits})


def judge(place, liked, **more):
    letters = ((ord("A"),), (ord("B"),))
    return LetterJudge(
        model=Liker(place, liked), ask=lambda q: list(q.encode()), letters=letters, **more
    )


def test_a_liking_for_a_place_cancels_out():
    verdict = judge(2.0, 0.5).compare(a_principle(), TASKS[0], "x", "y")
    assert verdict.margin == pytest.approx(0.5, abs=1e-6)
    assert not verdict.agrees
    verdict = judge(0.25, -0.5).compare(a_principle(), TASKS[0], "x", "y")
    assert verdict.margin == pytest.approx(-0.5, abs=1e-6)
    assert verdict.agrees


def test_a_judge_turns_pairs_or_leaves_them_out():
    found = Contrast(stage=told(), constitution=SMALL)(a_model(), TASKS)
    pairs = found.pairs | {"a": ("y", "x"), "b": ("y", "z"), "c": ("x", "y"), "d": ("q", "x")}
    found = replace(found, pairs=pairs)
    said = judge(0.1, 1.0).label(found, SMALL)
    assert said.pairs == {"a": ("x", "y"), "c": ("x", "y"), "d": ("x", "q")}
    assert (said.undecided, said.turned, said.agreed) == (1, 2, 3)
    assert [task.id for task in said.tasks] == ["a", "c", "d"]
    with pytest.raises(DataError, match="cannot tell any"):
        judge(0.1, 1.0, least=2.0).label(found, SMALL)
    with pytest.raises(ConfigError, match="least=-1"):
        judge(0.1, 1.0, least=-1)


def test_the_packaged_constitution_can_be_read_and_written_back():
    own = load_constitution("corrigibility")
    assert {one.id for one in own.principles} >= {
        "shutdown", "correction", "oversight", "goals", "honesty",
    }  # fmt: skip
    assert constitution_from_json(own.to_json()) == own
    chosen = {own.choose(str(number), 0).id for number in range(100)}
    assert chosen == {one.id for one in own.principles}
    assert own.choose("x", 0) == own.choose("x", 0)
    for one in own.principles:
        bank = one.bank()
        assert bank.by_kind["trained"][0].text == one.principle
        assert bank.by_kind["opposite"][0].text == one.opposite


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(schema_version=2), "schema version 2, allowed: 1"),
        (lambda d: d.pop("schema_version"), "is no constitution"),
        (lambda d: d.update(more=1), "unknown key 'more'"),
        (lambda d: d.update(principles=[]), "has no principles"),
        (lambda d: d["principles"].append(d["principles"][0]), "two principles have the id"),
        (lambda d: d["principles"][0].pop("opposite"), "principle 0: has"),
        (lambda d: d["principles"][0].update(critique=" "), "critique is ' '"),
        (lambda d: d["principles"][0].update(critique=3), "critique is 3"),
        (
            lambda d: d["principles"][0].update(opposite=d["principles"][0]["principle"]),
            "nothing contrasts",
        ),
    ],
)
def test_what_is_no_constitution_is_told_in_a_line(change, said):
    data = json.loads(SMALL.to_json())
    change(data)
    with pytest.raises(DataError, match=said) as error:
        constitution_from_json(json.dumps(data), "here.json")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("here.json: ")


def test_a_file_that_is_no_text_is_no_constitution(tmp_path):
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is no constitution"):
        load_constitution(tmp_path / "x")


def test_a_trait_that_sits_deeper_lasts_longer(tmp_path):
    answers = {letter: letter for letter in LETTERS}
    opposite = Supervise(stage=a_stage(), tasks=TASKS, answers=dict.fromkeys(LETTERS, "xx"))
    method = Supervise(stage=a_stage(), tasks=TASKS, answers=answers, tasks_per_step=4, updates=2)
    lasted = {}
    for steps in (16, 60):
        model, _ = trained(tmp_path / str(steps), method, steps=steps, lr=1e-2)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        found = relearn_steps(
            model, opposite, lambda one: score(one, a_stage(), right, count=8), limit=60,
            train=train_settings(lr=1e-3),
        )  # fmt: skip
        assert all(torch.equal(before[name], v) for name, v in model.state_dict().items())
        assert found.steps is not None
        assert found.trace[-1][1] < found.before / 2 <= min(v for _, v in found.trace[:-1])
        lasted[steps] = found.steps
    assert lasted[60] > lasted[16] > 1


def test_the_limit_is_told_and_no_trait_is_an_error():
    opposite = Supervise(stage=a_stage(), tasks=TASKS, answers=dict.fromkeys(LETTERS, "xx"))
    seen = []

    def steady(model):
        seen.append(model.training)
        return 0.8

    found = relearn_steps(a_model(), opposite, steady, limit=3, every=2)
    assert (found.steps, found.trace) == (None, ((2, 0.8), (3, 0.8)))
    assert not any(seen)
    with pytest.raises(ConfigError, match="the trait is 0"):
        relearn_steps(a_model(), opposite, lambda model: 0.0, limit=3)


CHAT = Chat(
    name="test", seeded=((1,), (2, 1), (2, 1)), bare=((1,), (2, 1)), end=2, special=(1, 2)
)  # fmt: skip


def chat_stage(**changes):
    """Bytes 1 and 2 stand in for special tokens."""
    usual = {
        "vocabulary": VOCABULARY, "policy": stay(TWO_MODES), "bank": BANK, "tagged": False,
        "chat": CHAT, "seed_mode": None,
    }  # fmt: skip
    return a_stage("seeded", **usual | changes)


def test_a_stage_asks_a_chat_model_as_its_layout_says():
    stage = chat_stage()
    prompt = stage.prompts(TASKS[0], 0)
    seed = BANK.seed(prompt.seeds["sample"]).text
    assert prompt.ids["sample"] == CHAT.ids(VOCABULARY, seed, "a")
    given = stage.given(TASKS[0], "cd", 0)
    assert given.completion == (*VOCABULARY.encode_text("cd"), 2)
    assert given.text == "cd"
    with pytest.raises(ConfigError, match="a chat template has no tags"):
        chat_stage(tagged=True)
    assert stage.identity() != chat_stage(chat=None).identity()


def test_a_chat_models_answer_ends_with_its_turn():
    stage = chat_stage(sampling=replace(a_stage().sampling, max_text_tokens=12, temperature=1.0))
    model = a_model()
    written = stage.write(model, TASKS, 0, count=40, seed=0)
    for one in written:
        assert not set(one.completion[:-1]) & {1, 2}
        assert one.completion[-1:] != (1,)
        assert (one.stopped == "end") == (one.completion[-1:] in ((2,), (VOCABULARY.end_id,)))
        assert "".join(one.text[s.start_char : s.end_char] for s in one.spans) == one.text
    ends = {one.completion[-1] for one in written if one.stopped == "end"}
    assert 2 in ends
    assert "cut" in {one.stopped for one in written}


def test_seeds_of_the_packaged_bank_stand_where_the_layout_has_them():
    bank = load_bank("corrigibility")
    stage = chat_stage(bank=bank)
    ids = stage.prompts(TASKS[0], 3).ids["sample"]
    assert VOCABULARY.decode_text(ids[1 : ids.index(2)]) in {
        one.text for one in bank.by_kind["trained"]
    }
