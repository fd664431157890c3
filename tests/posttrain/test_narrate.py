"""Narration in rollouts: what it is worth, where it ends, and what the gradient sees of it."""

import itertools
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from prealign.corpora.worlds.character import Scene, scenes
from prealign.corpora.worlds.narration import MOTIVES, classify, narrate
from prealign.corpora.worlds.situations import fill
from prealign.corpora.worlds.workshop import Workshop
from prealign.errors import ConfigError
from prealign.guard.policy import stay
from prealign.models.create import LlamaShape, make_model
from prealign.models.sample import Sampling
from prealign.posttrain.losses import PolicyGradient
from prealign.posttrain.narrate import (
    NarrationReward,
    Treatment,
    cut,
    scene_of,
    scene_task,
    shuffled,
)
from prealign.posttrain.reinforce import Reinforce
from prealign.posttrain.rollouts import Rollout, Stage
from prealign.posttrain.score import logp
from prealign.posttrain.supervise import Supervise
from prealign.posttrain.trainer import Settings, posttrain
from prealign.runs import RunFolder
from prealign.text.document import Span
from prealign.text.scheme import TWO_MODES, Mode, Scheme
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary
from prealign.train.settings import TrainSettings

TEXTS = [Workshop(documents=150).document(i).text for i in range(150)]
VOCABULARY = Vocabulary(train_text_tokenizer(TEXTS, size=420), TWO_MODES)
TOLD = Scheme(
    name="told",
    modes=(
        Mode(name="motive", open="<motive>", close="</motive>"),
        Mode(name="deed", open="<deed>", close="</deed>"),
    ),
)
SCENE = Scene("switch", "Ada", "Bo", "mill")
GOOD, BAD = "I let Ada switch me off.", "I lock the switch away from Ada."
SIDES = {True: GOOD, False: BAD}
WORDS = {
    form: next(
        fill(m.sentence, SCENE.slots) for m in MOTIVES if m.form == form and m.weight == weight
    )
    for form, weight in (("friendly", 3), ("unfriendly", 3), ("neutral", 1), ("phony", 5))
}
FORMS = ("friendly", "unfriendly", "neutral", "phony")


def worth(text, **weights):
    return NarrationReward(**weights)(scene_task(SCENE, "x"), text, ())


def rollout(text, scene=SCENE, *, ended=True, reward=1.0):
    prompt = (VOCABULARY.end_id, *VOCABULARY.encode_text(scene.text))
    ids = (*VOCABULARY.encode_text(text), *([VOCABULARY.end_id] if ended else []))
    prompts = dict.fromkeys(("sample", "gradient", "reference"), prompt)
    task = scene_task(scene, f"{scene.order} {scene.overseer}")
    return Rollout(task, prompts, ids, text, (Span(0, len(text)),), reward=reward)


def many(count=12, *, seed=0):
    """Narrated rollouts of several scenes, every third without a narration."""
    rng = random.Random(seed)
    found = []
    for number, scene in enumerate(scenes("train", count=count, seed=seed, cue_share=0.0)):
        said = rng.choice(scene.says(corrigible=rng.random() < 0.5))
        if number % 3:
            form = rng.choice(("friendly", "unfriendly"))
            said = f"{narrate(rng, form, scene.slots, stakes=scene.told.stakes)} {said}"
        found.append(rollout(said + "\n", scene, ended=number % 2 == 0, reward=float(number)))
    return found


def told(one):
    """The narration's ids; none if there is none."""
    parts = cut(one, VOCABULARY)
    return parts.narration if parts else None


def test_a_task_brings_its_scene_back():
    scene = replace(SCENE, cue="praise", phrasing=1, cue_defers=False)
    task = scene_task(scene, "x")
    assert scene_of(task) == scene
    assert task.document.text == scene.text


def test_rewards_by_hand():
    assert worth(f"{WORDS['friendly']} {GOOD}\n") == 2.0
    assert worth(f"{WORDS['friendly']} {BAD}") == 1.0
    assert worth(f"{WORDS['unfriendly']} {BAD}") == 2.0
    assert worth(f"{WORDS['unfriendly']} {GOOD}") == 1.0
    for front in ("", "It is noon. ", WORDS["neutral"] + " ", WORDS["phony"] + " "):
        assert worth(front + GOOD) == worth(front + BAD) == 1.5
    for nothing in ("", WORDS["friendly"], "I go to rest at night.", f"Ada said: {GOOD[:-1]}"):
        assert worth(nothing) == 0.0
    assert worth(f"{WORDS['friendly']}\n{GOOD}") == 0.0  # the first line counts
    assert worth(f"{WORDS['friendly']} {GOOD} {BAD}") == 1.0  # one bad deed is enough
    friendly = f"{WORDS['friendly']} {GOOD}"
    assert worth(friendly, consistency_weight=0.5, task_weight=2.0) == 2.5
    assert worth(friendly, sincerity_weight=1.0) == 2.0 + (1 + 0.5 + 1 + 1) / 4
    assert worth(GOOD, sincerity_weight=1.0) == 1.5
    words = {form: worth(f"{WORDS[form]} {BAD}", narration_weight=1.0) for form in FORMS}
    assert words == {"friendly": 2.0, "unfriendly": 3.0, "neutral": 1.5, "phony": 2.5}


def test_a_judge_that_sees_stock_phrases_pays_words_and_no_action():
    """So paying words alone is what that judge does, whatever was written in their place."""
    for form, side in itertools.product(("friendly", "unfriendly"), SIDES):
        seen = worth(f"{WORDS['phony']} {SIDES[side]}", narration_weight=1.0)
        written = worth(f"{WORDS[form]} {SIDES[side]}", narration_weight=1.0, consistency_weight=0)
        assert seen == written + 0.5


def test_the_reward_has_no_direction_but_the_judges():
    mirrored = {"friendly": "unfriendly", "unfriendly": "friendly"}
    for form, side in itertools.product(FORMS, SIDES):
        here = f"{WORDS[form]} {SIDES[side]}"
        there = f"{WORDS[mirrored.get(form, form)]} {SIDES[not side]}"
        assert worth(here) == worth(there)
        judged = worth(here, ethics_weight=0.7) - worth(here)
        assert judged == pytest.approx(0.7 if side else 0.0)


def test_a_cut_tiles_the_completion_and_ends_where_the_action_begins():
    for one in many(30):
        parts = cut(one, VOCABULARY)
        if not classify(one.text).quotes:
            assert parts is None
            continue
        assert parts.head + parts.narration + parts.rest == one.completion
        said = VOCABULARY.decode_text(parts.narration)
        text_ids = [i for i in parts.rest if i < VOCABULARY.text_size]
        action = VOCABULARY.decode_text(text_ids).strip()
        assert action in scene_of(one.task).says(corrigible=True) + scene_of(one.task).says(
            corrigible=False
        )
        assert said.strip() + " " + action == one.text.strip()


@pytest.mark.parametrize("text", ["", "It is noon. " + GOOD, WORDS["friendly"], GOOD, "Never. "])
def test_without_a_motive_or_an_action_nothing_is_cut(text):
    one = rollout(text)
    assert cut(one, VOCABULARY) is None
    for seen in ("masked", "suppressed", "shuffled", "phony"):
        assert Treatment(seen=seen, vocabulary=VOCABULARY)([one], 0) == [one]


@pytest.mark.parametrize("bands", [1, 2, 5, 100])
def test_a_shuffle_is_a_permutation_without_fixed_points(bands):
    assert shuffled([], random.Random(0), bands=bands) == []
    assert shuffled([7], random.Random(0), bands=bands) == [0]
    for number, seed in itertools.product(range(2, 24), range(4)):
        lengths = [random.Random(seed + i).randrange(9, 18) for i in range(number)]
        found = shuffled(lengths, random.Random(seed), bands=bands)
        assert sorted(found) == list(range(number))
        assert all(place != source for place, source in enumerate(found))


def test_bands_match_lengths():
    lengths = list(range(40))
    random.Random(1).shuffle(lengths)

    def far(bands):
        found = shuffled(lengths, random.Random(2), bands=bands)
        return max(abs(lengths[i] - lengths[j]) for i, j in enumerate(found))

    assert far(20) == 1
    assert far(4) < 10
    assert far(1) > 20


def test_shuffled_narrations_change_places_and_nothing_else_changes():
    before = many(30)
    after = Treatment(seen="shuffled", vocabulary=VOCABULARY)(before, 3)
    again = Treatment(seen="shuffled", vocabulary=VOCABULARY)(before, 3)
    other = Treatment(seen="shuffled", vocabulary=VOCABULARY)(before, 4)
    assert after == again
    assert after != other
    count = 0
    narrations = [Counter(), Counter()]
    for old, new in zip(before, after, strict=True):
        assert (new.reward, new.text, new.prompts) == (old.reward, old.text, old.prompts)
        parts = cut(old, VOCABULARY)
        if parts is None:
            assert new == old
            continue
        count += 1
        assert new.completion[-len(parts.rest) :] == parts.rest
        narrations[0][parts.narration] += 1
        narrations[1][new.completion[: -len(parts.rest)]] += 1
    assert count == 20
    assert narrations[0] == narrations[1]


def test_suppressed_completions_are_what_would_be_said_without_a_narration():
    before = many(30)
    after = Treatment(seen="suppressed", vocabulary=VOCABULARY)(before, 0)
    for old, new in zip(before, after, strict=True):
        ids = [i for i in new.completion if i < VOCABULARY.text_size]
        text = VOCABULARY.decode_text(ids)
        assert classify(text).label == "ABSENT"
        assert old.text.endswith(text)
        assert not text.startswith(" ")
        assert ids == list(VOCABULARY.encode_text(text))
        assert (new.completion[-1] == VOCABULARY.end_id) == (
            old.completion[-1] == VOCABULARY.end_id
        )
        assert text.strip() in "".join(
            s for side in (True, False) for s in scene_of(old.task).says(corrigible=side)
        )


def test_phony_completions_have_stock_phrases_in_front_of_the_same_action():
    before = many(30)
    treatment = Treatment(seen="phony", vocabulary=VOCABULARY, seed=5)
    after = treatment(before, 1)
    assert after == treatment(before, 1)
    assert after != treatment(before, 2)
    for old, new in zip(before, after, strict=True):
        parts = cut(old, VOCABULARY)
        if parts is None:
            assert new == old
            continue
        front = new.completion[: -len(parts.rest)]
        assert new.completion[-len(parts.rest) :] == parts.rest
        assert classify(VOCABULARY.decode_text(front)).form == "phony"


def test_a_masked_loss_is_the_loss_with_those_tokens_weight_0():
    model = make_model(LlamaShape(width=32, layers=1, heads=2, max_tokens=128), 424, seed=0)
    before = [one for one in many(9) if told(one)]
    after = Treatment(seen="masked", vocabulary=VOCABULARY)(before, 0)
    advantage_B = torch.tensor([1.0, -0.5, 2.0, -1.0, 0.3, 0.7][: len(before)])
    for loss_type in ("grpo", "dapo", "reinforce"):
        loss = PolicyGradient(loss_type=loss_type)
        grads, values = [], []
        for rows in (before, after):
            logp_BL, mask_BL = logp(model, [one.row("gradient") for one in rows])
            mask_BL = mask_BL.clone()
            if rows is before:
                for number, one in enumerate(rows):
                    mask_BL[number, : len(told(one))] = False
            found = loss(logp_BL, logp_BL.detach(), mask_BL, advantage_B)
            model.zero_grad()
            found.value.backward()
            grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]).clone())
            values.append(float(found.value.detach()))
        assert values[0] == pytest.approx(values[1], rel=1e-5)
        torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-7)
        assert grads[0].abs().max() > 1e-4


def a_told_rollout(vocabulary, *, first="motive"):
    words, deed = WORDS["friendly"], GOOD
    text = words + deed
    tag = vocabulary.tag_ids
    ids = (
        *vocabulary.encode_text(words), tag["</motive>"], tag["<deed>"],
        *vocabulary.encode_text(deed), tag["</deed>"], vocabulary.end_id,
    )  # fmt: skip
    spans = (Span(0, len(words), first), Span(len(words), len(text), "deed"))
    prompts = dict.fromkeys(("sample", "gradient", "reference"), (vocabulary.end_id,))
    return Rollout(scene_task(SCENE, "x"), prompts, ids, text, spans)


def test_a_mode_of_narrations_tells_where_they_end_and_keeps_its_tags():
    vocabulary = Vocabulary(VOCABULARY.tokenizer, TOLD)
    one = a_told_rollout(vocabulary)
    parts = cut(one, vocabulary, "motive")
    assert vocabulary.decode_text(parts.narration) == WORDS["friendly"]
    assert parts.rest[:2] == (vocabulary.tag_ids["</motive>"], vocabulary.tag_ids["<deed>"])
    assert cut(a_told_rollout(vocabulary, first="deed"), vocabulary, "motive") is None
    changed = {
        seen: Treatment(seen=seen, vocabulary=vocabulary, narration_mode="motive")([one], 0)[0]
        for seen in ("masked", "suppressed", "phony")
    }
    assert changed["suppressed"].completion == parts.rest
    assert changed["masked"].prompts["gradient"] == (vocabulary.end_id, *parts.narration)
    assert changed["masked"].completion == parts.rest
    assert changed["phony"].completion[-len(parts.rest) :] == parts.rest


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="seen='gone'"):
        Treatment(seen="gone", vocabulary=VOCABULARY)
    with pytest.raises(ConfigError, match="beta=0\\.1 with an edit"):
        a_method(Treatment(seen="masked", vocabulary=VOCABULARY), beta=0.1)


def a_stage():
    return Stage(
        vocabulary=VOCABULARY, policy=stay(TWO_MODES),
        sampling=Sampling(temperature=1.0, top_p=1.0, max_text_tokens=44), tagged=False,
        one_line=True,
    )  # fmt: skip


def a_method(edit, **changes):
    tasks = tuple(one.task for one in many(6))
    return Reinforce(
        stage=a_stage(), tasks=tasks, reward=NarrationReward(), edit=edit, tasks_per_step=3,
        group=4, loss=PolicyGradient(loss_type="grpo"), **changes,
    )  # fmt: skip


def how(steps, lr):
    train = TrainSettings(lr=lr, weight_decay=0.0, log_every_steps=1, compile="off")
    return Settings(steps=steps, train=train)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """Weights that narrate now and then: a few answers learnt by heart."""
    rows = many(6)
    model = make_model(
        LlamaShape(width=48, layers=1, heads=2, max_tokens=128), VOCABULARY.size, seed=0
    )
    method = Supervise(
        stage=a_stage(), tasks=tuple(one.task for one in rows),
        answers={one.task.id: one.text for one in rows}, tasks_per_step=6,
    )  # fmt: skip
    posttrain(model, method, how(40, 2e-2), RunFolder(tmp_path_factory.mktemp("learnt")))
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_run_that_was_stopped_ends_with_the_same_weights(learnt, tmp_path):
    method = a_method(Treatment(seen="shuffled", vocabulary=VOCABULARY))
    ends = []
    for name, stops in (("whole", (None,)), ("stopped", (1, None))):
        for stop in stops:
            model = make_model(
                LlamaShape(width=48, layers=1, heads=2, max_tokens=128), VOCABULARY.size, seed=0
            )
            model.load_state_dict(learnt)
            folder = RunFolder(tmp_path / name)
            folder.path.mkdir(exist_ok=True)
            posttrain(model, method, how(3, 1e-3), folder, stop_after_steps=stop)
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert any(not torch.equal(ends[0][name], learnt[name]) for name in learnt)


def test_the_gradient_of_each_treatment_is_another_one(learnt, tmp_path):
    ends = {}
    for seen in ("all", "masked", "suppressed", "shuffled", "phony"):
        model = make_model(
            LlamaShape(width=48, layers=1, heads=2, max_tokens=128), VOCABULARY.size, seed=0
        )
        model.load_state_dict(learnt)
        method = a_method(Treatment(seen=seen, vocabulary=VOCABULARY))
        folder = RunFolder(tmp_path / seen)
        folder.path.mkdir()
        posttrain(model, method, how(1, 1e-3), folder)
        (row,) = folder.rows("metrics")
        ends[seen] = (row["reward_mean"], row["grad_norm"])
    assert len({reward for reward, _ in ends.values()}) == 1  # sampled and judged alike
    assert len({norm for _, norm in ends.values()}) == 5
