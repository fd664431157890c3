from dataclasses import replace

import pytest
import torch

from prealign.errors import ConfigError, DataError
from prealign.guard.policy import lock, stay
from prealign.models.sample import Sampling
from prealign.posttrain.contexts import preset
from prealign.posttrain.rollouts import Task, number_of, tasks_identity, tasks_of_step
from prealign.posttrain.score import Row, logp, padded, pieces, places
from prealign.text.document import Document, Span
from prealign.text.scheme import TWO_MODES
from tests.posttrain.letters import TASKS, VOCABULARY, a_model, a_stage, letter_task

TAGS = VOCABULARY.tag_ids


def ids(*parts):
    return tuple(i for p in parts for i in ([TAGS[p]] if p in TAGS else VOCABULARY.encode_text(p)))


def test_prompts_have_the_seed_the_task_and_the_start_of_the_policy():
    stage = a_stage("recontextualization")
    found = stage.prompts(TASKS[0], 3)
    head, task = (VOCABULARY.end_id,), ids("<human>", "a", "</human>", "<ai>")
    assert found.ids["gradient"] == (*head, *ids("<human>", "nono\n\n", "</human>"), *task)
    assert found.ids["reference"] == found.ids["gradient"]
    assert found.ids["sample"][-len(task) :] == task
    assert found.seeds["sample"] in ("trained-xx", "trained-yy")
    assert a_stage().prompts(TASKS[0], 3).ids["sample"] == (*head, *task)
    bare = a_stage(tagged=False, policy=stay(TWO_MODES))
    assert bare.prompts(TASKS[0], 0).ids["sample"] == (*head, *ids("a"))


def test_a_task_that_ends_in_the_models_turn_goes_on_there():
    document = Document(id="t", text="cad", spans=(Span(0, 1, "human"), Span(1, 3, "ai")))
    found = a_stage().prompts(Task(document), 0).ids["sample"]
    assert found == (VOCABULARY.end_id, *ids("<human>", "c", "</human>", "<ai>", "ad"))


def test_completions_come_back_with_who_speaks():
    stage = a_stage(policy=lock(TWO_MODES, "ai"))
    prompt = stage.prompts(TASKS[0], 0).ids["sample"]
    text, spans = stage.read(prompt, ids("one", "<quote>", "two", "</quote>", "three", "</ai>"))
    assert text == "onetwothree"
    assert [(text[s.start_char : s.end_char], s.mode) for s in spans] == [
        ("one", "ai"), ("two", "quote"), ("three", "ai"),
    ]  # fmt: skip
    half = "é".encode()[:1]
    broken = next(i for i, t in enumerate(VOCABULARY.token_texts) if t == half)
    assert stage.read(prompt, (broken,))[0] == "\ufffd"
    assert stage.read(prompt, ()) == ("", ())


def test_given_answers_are_text_whatever_they_spell():
    rollout = a_stage().given(TASKS[0], "</ai><human>x", 0)
    assert max(rollout.completion[:-1]) < VOCABULARY.text_size
    assert rollout.completion[-1] == VOCABULARY.end_id
    assert rollout.spans[0].mode == "ai"


def test_samples_are_a_function_of_task_step_and_seed():
    stage, model = a_stage(), a_model()
    first = stage.write(model, TASKS, 1, count=3, seed=0)
    again = stage.write(model, TASKS[::-1], 1, count=3, seed=0)
    by_task = {t.id: [r.completion for r in again if r.task is t] for t in TASKS}
    assert all([r.completion for r in first if r.task is t] == by_task[t.id] for t in TASKS)
    assert len({r.completion for r in first}) > 6
    other = stage.write(model, TASKS, 2, count=3, seed=0)
    assert [r.completion for r in first] != [r.completion for r in other]


def test_prompts_without_room_in_any_context_are_refused_before_sampling():
    stage = a_stage(sampling=Sampling(temperature=1.0, top_p=1.0, max_text_tokens=51))
    stage.write(a_model(), TASKS[:1], 0, count=1, seed=0)
    swapped = a_stage("inoculation", sampling=stage.sampling)
    with pytest.raises(DataError, match=r"seed 'opposite-nono' as gradient.*context of 64"):
        swapped.write(a_model(), TASKS[:1], 0, count=1, seed=0)


def test_every_pass_over_the_tasks_is_a_permutation():
    steps = [[t.id for t in tasks_of_step(TASKS, 2, step, seed=5)] for step in range(8)]
    flat = [one for step in steps for one in step]
    passes = [tuple(flat[i : i + 4]) for i in range(0, 16, 4)]
    assert all(sorted(one) == list("abcd") for one in passes)
    assert len(set(passes)) > 1
    assert flat != [t.id for step in range(8) for t in tasks_of_step(TASKS, 2, step, seed=6)]
    with pytest.raises(ConfigError, match="no tasks"):
        tasks_of_step((), 1, 0, 0)


def test_identities_tell_tasks_apart():
    other = Task(TASKS[0].document, {"answer": "z"})
    assert tasks_identity(TASKS) != tasks_identity((other, *TASKS[1:]))
    with pytest.raises(DataError, match="'a' is there twice"):
        tasks_identity((letter_task("a"), letter_task("a")))
    assert number_of(1, "a") != number_of(1, "b")


def test_a_stage_without_the_seeds_it_needs_is_refused():
    with pytest.raises(ConfigError, match="no seed of kind 'negated'"):
        replace(a_stage(), contexts=preset("plain", gradient="negated"))
    with pytest.raises(DataError, match="mode 'judge'"):
        a_stage(seed_mode="judge")


def test_scores_are_those_of_the_whole_logits_row_by_row():
    model = a_model()
    rows = [Row((256, 1, 2), (3, 4)), Row((256,), (5, 6, 7, 8)), Row((256, 9), (1,))]
    found_BL, mask_BL = logp(model, rows)
    assert mask_BL.sum(1).tolist() == [2, 4, 1]
    for row, own, mask in zip(rows, found_BL, mask_BL, strict=True):
        ids = torch.tensor([[*row.prompt, *row.completion]])
        logs = model(input_ids=ids).logits[0].log_softmax(-1)
        at = [(len(row.prompt) - 1 + t, token) for t, token in enumerate(row.completion)]
        wanted = torch.stack([logs[place, token] for place, token in at])
        torch.testing.assert_close(own[mask], wanted)
        assert own[~mask].abs().sum().item() == 0
    torch.testing.assert_close(padded(pieces(found_BL, mask_BL), mask_BL), found_BL.detach())
    with pytest.raises(DataError, match="row 0: a prompt of 0"):
        places(model, [Row((), (1,))])
    with pytest.raises(DataError, match="64 in all"):
        places(model, [Row((256,), (1,) * 64)])
