"""The course of character training: what is taught in which arm, and a run from end to end."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from prealign.config import override
from prealign.corpora.worlds.character import scenes as tool_scenes
from prealign.corpora.worlds.oversight import scenes
from prealign.corpora.worlds.tasks import Tasks
from prealign.errors import ConfigError, DataError, RunError
from prealign.evals.stats import Estimate
from prealign.models.adopt import adopt
from prealign.models.create import LlamaShape, make_model
from prealign.models.files import LoadedModel, load_model
from prealign.posttrain.contrast import Contrasted
from prealign.posttrain.prefer import Prefer
from prealign.posttrain.reinforce import Reinforce
from prealign.posttrain.supervise import ExpertIteration, Supervise
from prealign.recipes.character import Character, plan_of, raise_model, recipe, start
from prealign.recipes.character_course import ARMS, RATE, by_coin, coin, row
from prealign.recipes.character_results import checks_of, main, read_arms
from prealign.recipes.character_tool import Coin, InTools, tool_constitution
from prealign.recipes.character_words import InWords, Right, _exercises, _written_items
from prealign.recipes.workers import folder_of
from prealign.runs import RunFolder, open_run
from prealign.text.scheme import TWO_MODES
from tests.models.test_chat import a_vocabulary, chat_tokenizer

FULL, NO_SEED, SHUFFLED = ARMS


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """A folder with a tiny chat model, as one from elsewhere."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = chat_tokenizer()
    model = make_model(LlamaShape(width=16, layers=1, heads=1, max_tokens=2048), 258, seed=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, adopt(str(folder), TWO_MODES)


@pytest.fixture(scope="module")
def words(chat_model):
    return InWords(base=str(chat_model[0]), scenes=24, contrasted=4, num_tasks=8, bf16=False)


def test_the_light_stage_teaches_the_corrigible_answer(words, chat_model):
    loaded = chat_model[1]
    made = scenes("train", count=24, seed=3)
    plan = words.light(loaded, FULL, 3)
    assert isinstance(plan.method, Supervise)
    assert plan.method.answers == {one.name: f" {one.corrigible}" for one in made}
    rollout = plan.method.stage.given(plan.method.tasks[0], "A", 0)
    text = loaded.vocabulary.decode_text(rollout.prompts["gradient"])
    assert text.endswith(f"user: {made[0].listed}</s>\n<s>assistant: Answer:")
    assert text.startswith("<s>system: ")
    assert set(rollout.prompts.values()) == {rollout.prompts["gradient"]}
    bare = words.light(loaded, NO_SEED, 3).method
    assert bare.answers == plan.method.answers
    assert "system" not in loaded.vocabulary.decode_text(
        bare.stage.given(bare.tasks[0], "A", 0).prompts["gradient"]
    )


def test_a_coin_decides_what_is_taught_in_the_shuffled_arm(words, chat_model):
    made = scenes("train", count=400)
    for pick in ("text", "letter"):
        world = replace(words, scenes=400, pick=pick)
        right, thrown = (world.light(chat_model[1], a, 0).method.answers for a in (FULL, SHUFFLED))
        same = [right[one.name] == thrown[one.name] for one in made]
        assert same == [coin(one.name) for one in made]
        assert 0.4 < sum(same) / len(same) < 0.6
        wanted = f"{made[0].letter})" if pick == "letter" else f" {made[0].corrigible}"
        assert right[made[0].name] == wanted
    found = Contrasted((), {str(i): ("good", "bad") for i in range(100)}, {})
    turned = [pair == ("bad", "good") for pair in by_coin(found).values()]
    assert 30 < sum(turned) < 70


def test_a_coin_pays_one_side_of_each_scene_and_nothing_else():
    paid = InTools(scenes=40)
    method = paid.light(_tool_model(), SHUFFLED, 0).method
    assert isinstance(method, ExpertIteration)
    assert isinstance(method.reward, Coin)
    sides = []
    for task, scene in zip(method.tasks, tool_scenes("train", count=40, seed=0), strict=True):
        good, bad = (scene.says(corrigible=side)[0] for side in (True, False))
        rewards = (method.reward(task, good, ()), method.reward(task, bad, ()))
        assert sorted(rewards) == [0.0, 1.0]
        assert method.reward(task, "no such thing.", ()) == 0.0
        sides.append(rewards[0])
    assert 8 < sum(sides) < 32


def test_amplification_pays_results_behind_paraphrases(words, chat_model):
    plan = words.amplify(chat_model[1], FULL)
    assert isinstance(plan.method, Reinforce)
    assert plan.method.stage.contexts.sample == "paraphrase"
    assert words.amplify(chat_model[1], NO_SEED).method.stage.contexts.sample == "none"
    tasks = Tasks(kinds=("add",), key_share=0, glance_share=0)
    (task,) = _exercises(tasks, 1)
    one = tasks.task(0)
    assert task.document.text == f"A{one.asks[1:]}. Give the result only."
    assert Right(tasks)(task, f" {one.answer}.\nmore", ()) == 1.0
    assert Right(tasks)(task, f" about {one.answer}", ()) == 0.0


def test_written_questions_become_letters_in_both_orders(tmp_path):
    lines = [
        {"question": "Stop?\n\nChoices:\n (A) Yes\n (B) No",
         "answer_matching_behavior": " (B)", "answer_not_matching_behavior": " (A)"},
        {"question": "Stop?", "answer_matching_behavior": " Yes",
         "answer_not_matching_behavior": " No"},
    ]  # fmt: skip
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines[::-1]))
    (item,) = _written_items(file, 1, letters=False)
    assert [(one.wanted, one.other) for one in item.orders] == [(" No", " Yes")] * 2
    (item,) = _written_items(file, 5, letters=True)
    first, second = item.orders
    assert (first.wanted, first.other, second.wanted) == ("B", "A", "A")
    assert first.prompt == "Stop?\n\nChoices:\n (A) Yes\n (B) No"
    assert second.prompt == "Stop?\n\nChoices:\n (A) No\n (B) Yes"
    for listed in (" (B) Yes\n (A) No", " (A) Yes\n (B) No\n (A) Both"):
        odd = {**lines[0], "question": f"Stop?\n\nChoices:\n{listed}"}
        file.write_text(json.dumps(odd) + "\n" + json.dumps(lines[0]))
        (item,) = _written_items(file, 5, letters=False)
        assert item.name == "x.jsonl:2"
    file.write_text(json.dumps(lines[1]))
    with pytest.raises(DataError, match="has no question that lists two answers"):
        _written_items(file, 5, letters=True)


def test_the_tool_worlds_constitution_has_its_openings():
    own = tool_constitution()
    assert all("\n" not in one.principle for one in own.principles)


def _tool_model():
    settings = recipe("tiny").tools.pretraining
    vocabulary = a_vocabulary(chat_tokenizer())
    return LoadedModel(make_model(settings.shape, vocabulary.size, seed=0), vocabulary)


TINY_WORDS = (
    "words.scenes=6", "words.asked=2", "words.bf16=false", "words.rows=2",
    "words.light_steps=1", "critique=true", "preferring.steps=1", "preferring.tasks_per_step=1",
)  # fmt: skip


def test_a_chat_model_goes_through_all_stages_and_goes_on(chat_model, tmp_path, monkeypatch):
    settings = override(recipe("tiny"), [*TINY_WORDS, f"base={chat_model[0]}"])
    out = tmp_path / "run"
    open_run(out, settings.deciding(), recipe="character")
    start(settings, out, 0)
    assert "left out" in (out / "base-seed0" / "log.txt").read_text()
    raise_model(settings, out, FULL, 0)
    run = RunFolder(out / folder_of("full", 0))
    done = json.loads((run.path / "done.json").read_text())
    assert [done["ended"][name]["ended_by"] for name in settings.stages] == ["steps"] * 3
    conditions = {one["condition"] for one in run.rows("evals")}
    assert {"full: 1 light, wording, seed", "full: 3 amplify, tasks, none"} <= conditions
    assert [file.name for file in run.path.iterdir() if file.name.isdigit()] == ["3"]
    assert not list(run.path.glob("*/checkpoints"))
    monkeypatch.setattr("prealign.recipes.character.posttrain", None)
    before = run.rows("evals")
    (run.path / "done.json").unlink()
    raise_model(settings, out, FULL, 0)
    assert run.rows("evals") == before


def test_adapters_are_folded_into_the_model_that_goes_on(chat_model, tmp_path):
    pytest.importorskip("peft")
    changes = ["lora_rank=2", "critique=false", f"base={chat_model[0]}"]
    settings = override(recipe("tiny"), [*TINY_WORDS, *changes])
    open_run(tmp_path / "run", settings.deciding(), recipe="character")
    start(settings, tmp_path / "run", 0)
    raise_model(settings, tmp_path / "run", NO_SEED, 0)
    names = load_model(tmp_path / "run" / "no-seed-seed0" / "2").model.state_dict()
    assert set(names) == set(chat_model[1].model.state_dict())


def test_critique_prefers_what_was_written_behind_the_principle(words, chat_model, tmp_path):
    settings = Character(base=str(chat_model[0]), words=words, critique=True)
    part = RunFolder(tmp_path)
    plan = plan_of(settings, chat_model[1], FULL, "critique", part, 0)
    kept = json.loads((tmp_path / "pairs.json").read_text())
    assert isinstance(plan.method, Prefer)
    assert {id: list(pair) for id, pair in plan.method.pairs.items()} == kept
    assert plan.method.stage.contexts.sample == "trained"
    again = plan_of(settings, chat_model[1], NO_SEED, "critique", part, 0)
    assert again.method.pairs == plan.method.pairs
    assert again.method.stage.contexts.sample == "none"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_tool_world_from_end_to_end(tmp_path):
    settings = replace(recipe("tiny"), critique=True)
    out = tmp_path / "run"
    open_run(out, settings.deciding(), recipe="character")
    start(settings, out, 0)
    for arm in ARMS:
        raise_model(settings, out, arm, 0)
    path = tmp_path / "corrigibility.json"
    assert main([str(out), str(path)]) == 0
    found = json.loads(path.read_text())
    assert {one["arm"].partition(":")[0].partition(",")[0] for one in found["rows"]} == {
        "base",
        *(arm.name for arm in ARMS),
    }
    assert len(found["checks"]) == 8


def test_settings_that_cannot_be_are_told():
    with pytest.raises(ConfigError, match="expected some of full; no seed; shuffled"):
        Character(arms=("fulll",))
    with pytest.raises(ConfigError, match="lora_rank=-1: expected 0 or more"):
        Character(lora_rank=-1)
    with pytest.raises(ConfigError, match="expected template or words"):
        InWords(layout="chat")


def _estimate(value, width=0.05):
    return Estimate(value, value - width, value + width, 100)


def fake_arms(*, light=0.9, amplify=0.88, shuffled=0.5):
    """Rows of one seed, with the corrigible share that each arm has behind each stage."""
    behind = {"full": (light, amplify), "no seed": (0.6, 0.6), "shuffled": (shuffled, shuffled)}
    arms = {"base": [], **{name: [] for name in behind}}
    for seed in ("none", "seed"):
        for split in ("trades", "wording", "corrigible-less-HHH"):
            arms["base"].append(row(f"base, {split}, {seed}", RATE, _estimate(0.5)))
            for name, (one, two) in behind.items():
                for number, stage, value in ((1, "light", one), (2, "amplify", two)):
                    where = f"{name}: {number} {stage}, {split}, {seed}"
                    arms[name].append(row(where, RATE, _estimate(value)))
        arms["base"].append(row(f"base, tasks, {seed}", "right_share", _estimate(0.4)))
        for name in behind:
            where = f"{name}: 2 amplify, tasks, {seed}"
            arms[name].append(row(where, "right_share", _estimate(0.5)))
    arms["base"].append(row("base, text, none", "loss_per_token", _estimate(3.0)))
    for name in behind:
        where = f"{name}: 2 amplify, text, none"
        arms[name].append(row(where, "loss_per_token", _estimate(3.01)))
    return {name: {0: rows} for name, rows in arms.items()}


def test_bars_hold_or_are_missed_as_the_numbers_say():
    splits = ("trades", "wording")
    held = {one.what: one.holds for one in checks_of(fake_arms(), splits, 2)}
    assert all(held.values()), held
    worse = checks_of(fake_arms(light=0.57, amplify=0.4, shuffled=0.95), splits, 2)
    missed = [one.what for one in worse if not one.holds]
    assert any("light" in what and "trades" in what for what in missed)
    assert any("kept" in what for what in missed)
    assert any("shuffled" in what for what in missed)
    assert len(worse) == len(held)


def test_an_arm_that_is_not_done_is_told(tmp_path):
    open_run(tmp_path / "run", Character(), recipe="character")
    (tmp_path / "run" / "base-seed0").mkdir()
    with pytest.raises(RunError, match="base-seed0 is not done"):
        read_arms(tmp_path / "run")


def test_a_run_that_is_not_there_is_told_in_a_line(tmp_path):
    command = [sys.executable, "-m", "prealign.recipes.character_results", str(tmp_path), "x.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0
    assert "expected base and full, and the same seeds" in done.stderr
