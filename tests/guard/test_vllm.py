"""The plug-in in vLLM's two batches, row for row against the table, and what it refuses."""

import abc
import importlib
import random
import sys
import tomllib
import types
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prealign.errors import ConfigError, GuardError
from prealign.guard import vllm
from prealign.guard.follow import Follower
from prealign.guard.policy import free, lock, lock_noquote, stay
from prealign.guard.table import table_of
from prealign.guard.vllm import ModeGuard
from prealign.guard.vllm_rows import BatchRows, SlotRows
from prealign.guard.vllm_settings import (
    check_config,
    check_params,
    findings,
    policies_from,
    table_from,
)
from prealign.text.scheme import TWO_MODES
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary
from tests.guard.recorded_engines import Update, V1Batch, V2Requests, Way, params

WANTED = "lock ai, lock-noquote ai"
STEPS = 400


@pytest.fixture(scope="module")
def two_modes():
    return Vocabulary(train_text_tokenizer(["to be or not to be\n"], size=258), TWO_MODES)


@pytest.fixture
def folder(two_modes, tmp_path):
    two_modes.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def guarded(folder, two_modes, monkeypatch):
    """An environment with a guard."""

    def use():
        monkeypatch.setenv("PREALIGN_GUARD_MODEL", str(folder))
        monkeypatch.setenv("PREALIGN_GUARD", WANTED)
        return config(folder, two_modes.size)

    return use


def config(folder, size, *, v2=True, **changes):
    model = SimpleNamespace(
        model=str(folder),
        logprobs_mode="processed_logprobs",
        max_logprobs=20,
        enable_trace_replay=False,
        enable_prompt_embeds=False,
        logits_processors=None,
        get_vocab_size=lambda: size,
    )
    vllm_config = SimpleNamespace(
        model_config=model,
        use_v2_model_runner=v2,
        speculative_config=None,
        reasoning_config=None,
        diffusion_config=None,
        scheduler_config=SimpleNamespace(async_scheduling=True),
        device_config=SimpleNamespace(device_type="cuda"),
    )
    for name, value in changes.items():
        setattr(model if hasattr(model, name) else vllm_config, name, value)
    return vllm_config


# --- The two batches ---


TABLES = {
    "two": [lock(TWO_MODES, "ai"), lock_noquote(TWO_MODES, "ai")],
    "many": [free(TWO_MODES), lock(TWO_MODES, "human"), stay(TWO_MODES), lock(TWO_MODES, "ai")],
    "counted": [lock(TWO_MODES, "ai", longest=3), lock(TWO_MODES, "human")],
}


@dataclass
class Bare:
    """The plug-in without its settings, for policies that they have no name for."""

    follower: Follower
    rows: Any

    def add_request(self, slot, one):
        self.rows.add(slot, one)
        return True

    def apply_staged_writes(self):
        pass

    def update_state(self, moves):
        if moves is not None:
            self.rows.update(moves)

    def apply(self, logits, ctx=None):
        states = self.rows.states(len(logits) if ctx is None else ctx)
        return self.follower.mask(logits, states)


def names_of(table):
    return [None, *(one.name for one in table.policies), "no such"]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", TABLES)
def test_v2_rows_are_masked_by_their_exact_ids(two_modes, kind, seed):
    table = table_of(two_modes, *TABLES[kind])
    torch.manual_seed(seed)
    requests = V2Requests(random.Random(seed), table, names_of(table))
    follower = Follower(table)
    processor = Bare(follower, SlotRows(follower, requests))
    assert sum(requests.step(processor) for _ in range(STEPS)) > STEPS


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", TABLES)
def test_v1_rows_are_masked_by_their_exact_ids(two_modes, kind, seed):
    table = table_of(two_modes, *TABLES[kind])
    torch.manual_seed(seed)
    follower = Follower(table)
    batch = V1Batch(
        random.Random(seed), table, names_of(table), Bare(follower, BatchRows(follower))
    )
    assert sum(batch.step() for _ in range(STEPS)) > STEPS


def test_the_class_that_vllm_makes_does_the_same(guarded, two_modes):
    table = policies_from(WANTED, two_modes)
    torch.manual_seed(0)
    requests = V2Requests(random.Random(0), table, names_of(table))
    second = ModeGuard(guarded(), requests)
    assert sum(requests.step(second) for _ in range(50)) > 50
    vllm_config = guarded()
    vllm_config.use_v2_model_runner = False
    vllm_config.model_config.logits_processors = ["prealign.guard.vllm:ModeGuard"]
    first = ModeGuard(vllm_config, torch.device("cpu"), False)
    batch = V1Batch(random.Random(0), table, names_of(table), first)
    assert sum(batch.step() for _ in range(50)) > 50
    assert not first.is_argmax_invariant()


def test_a_slot_that_was_never_filled_may_only_end(guarded, two_modes):
    vllm_config = guarded()
    table = policies_from(WANTED, two_modes)
    requests = V2Requests(random.Random(0), table, [None])
    processor = ModeGuard(vllm_config, requests)
    zeros = torch.zeros(2, dtype=torch.int64)
    ctx = SimpleNamespace(
        expanded_idx_mapping=torch.tensor([3, -1]), expanded_local_pos=zeros, pos=zeros,
        input_ids=zeros,
    )  # fmt: skip
    masked = processor.apply(torch.zeros(2, table.ids.size), ctx)
    assert masked.isfinite().nonzero()[:, 1].tolist() == [two_modes.end_id] * 2


def test_a_batch_that_moves_a_row_takes_its_state_along(guarded, two_modes):
    vllm_config = guarded()
    vllm_config.use_v2_model_runner = False
    vllm_config.scheduler_config.async_scheduling = False
    processor = ModeGuard(vllm_config, torch.device("cpu"), False)
    ai, quote = two_modes.open_id("ai"), two_modes.open_id("quote")
    close = two_modes.tag_ids["</quote>"]
    prompt = [two_modes.end_id, ai]
    first, second = [0, 1], [0, quote]
    processor.update_state(
        Update(2, [], [(0, params(), prompt, first), (1, params(), prompt, second)], [])
    )

    def rows_that_may(token, rows):
        masked = processor.apply(torch.zeros(rows, two_modes.size))
        return masked[:, token].isfinite().tolist()

    assert rows_that_may(close, 2) == [False, True]
    processor.update_state(Update(2, [], [], [(0, 1, Way.SWAP)]))
    assert rows_that_may(close, 2) == [True, False]
    processor.update_state(Update(1, [0], [], [(1, 0, Way.UNIDIRECTIONAL)]))
    assert rows_that_may(close, 1) == [False]
    processor.update_state(Update(0, [0], [], []))
    assert rows_that_may(0, 1) == [False]
    processor.update_state(Update(1, [], [(0, params(), None, [])], []))  # embeddings, no ids
    assert rows_that_may(0, 1) == [False]


def test_ids_that_the_engine_takes_back_are_forgotten(two_modes):
    table = table_of(two_modes, lock(TWO_MODES, "ai"))
    requests = V2Requests(random.Random(0), table, [None])
    rows = SlotRows(Follower(table), requests)
    quote, ai = two_modes.open_id("quote"), two_modes.open_id("ai")
    requests.all_token_ids.gpu[0, :4] = torch.tensor([two_modes.end_id, ai, 0, quote])
    requests.prompt_len.np[0] = 2
    rows.add(0, params())

    def inside(length, total):
        requests.total_len.gpu[0] = total
        one = torch.zeros(1, dtype=torch.int64)
        [state] = rows.states(
            SimpleNamespace(
                expanded_idx_mapping=one,
                expanded_local_pos=one,
                input_ids=one,
                pos=one + length - 1,
            )
        )
        return table.path(state) if state >= 0 else None

    assert inside(4, 4) == ("ai", "quote")
    assert inside(3, 3) == ("ai",)
    requests.all_token_ids.gpu[0, 3] = 1
    assert inside(4, 4) == ("ai",)
    assert inside(4, 3) is None  # behind what the engine says is there
    requests.all_token_ids.gpu[0, 3] = ai  # what the model could not have written
    assert inside(2, 4) == ("ai",)
    assert inside(4, 4) is None


def test_logits_of_another_width_are_refused(guarded, two_modes):
    vllm_config = guarded()
    table = policies_from(WANTED, two_modes)
    processor = ModeGuard(vllm_config, V2Requests(random.Random(0), table, [None]))
    with pytest.raises(GuardError, match="the other's"):
        processor.apply(torch.zeros(1, two_modes.size))


# --- Where it is on ---


def test_without_a_word_it_leaves_other_models_alone(monkeypatch, tmp_path):
    monkeypatch.delenv("PREALIGN_GUARD", raising=False)
    monkeypatch.delenv("PREALIGN_GUARD_MODEL", raising=False)
    processor = ModeGuard(config("some/model", 9), object())
    logits = torch.randn(2, 9)
    assert processor.apply(logits, SimpleNamespace()) is logits
    assert processor.add_request(0, params()) is False
    ModeGuard.validate_params(params("lock ai", ignore_eos=True))


def test_a_model_with_modes_is_not_served_without_a_word(folder, two_modes):
    with pytest.raises(ConfigError, match="PREALIGN_GUARD does not say"):
        table_from({}, str(folder))
    assert table_from({"PREALIGN_GUARD": "off"}, str(folder)) is None
    with pytest.raises(GuardError, match="the guard is off"):
        check_config(config(folder, two_modes.size), {"PREALIGN_GUARD": "off"})


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PREALIGN_GUARD": "lock ai"}, "set both"),
        ({"PREALIGN_GUARD_MODEL": "FOLDER"}, "set both"),
        ({"PREALIGN_GUARD": "", "PREALIGN_GUARD_MODEL": "FOLDER"}, "set both"),
        ({"PREALIGN_GUARD": "lok ai", "PREALIGN_GUARD_MODEL": "FOLDER"}, "no policy 'lok'"),
        ({"PREALIGN_GUARD": "lock", "PREALIGN_GUARD_MODEL": "FOLDER"}, "needs a mode"),
        ({"PREALIGN_GUARD": "lock ai, free", "PREALIGN_GUARD_MODEL": "FOLDER"}, "'free' allows"),
        ({"PREALIGN_GUARD": "lock ai, lock human", "PREALIGN_GUARD_MODEL": "FOLDER"}, "allows"),
        ({"PREALIGN_GUARD": "lock-noquote ai, lock ai", "PREALIGN_GUARD_MODEL": "FOLDER"}, "allow"),
    ],
)
def test_an_environment_that_says_half_or_too_much_is_refused(folder, environment, message):
    environment = {
        name: value.replace("FOLDER", str(folder)) for name, value in environment.items()
    }
    with pytest.raises(ConfigError, match=message):
        table_from(environment, str(folder))


def test_another_model_than_the_one_served_is_refused(folder, tmp_path):
    other = Vocabulary(train_text_tokenizer(["other words, others"], size=260), TWO_MODES)
    other.save(tmp_path / "other")
    environment = {"PREALIGN_GUARD": "lock ai", "PREALIGN_GUARD_MODEL": str(folder)}
    for served in (str(tmp_path / "other"), "some/model"):
        with pytest.raises(ConfigError, match="not the same vocabulary"):
            table_from(environment, served)


# --- Requests ---


def test_requests_choose_only_among_the_policies_of_the_server(guarded):
    guarded()
    ModeGuard.validate_params(params())
    ModeGuard.validate_params(params("lock-noquote ai"))
    for name in ("free", "lock human", "stay", 0):
        with pytest.raises(ValueError, match="this server allows lock ai, lock-noquote ai"):
            ModeGuard.validate_params(params(name or 7))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ignore_eos", True), ("min_tokens", 4), ("thinking_token_budget", 9), ("beam_width", 4),
        ("trace_decode_token_ids", [1]), ("prompt_logprobs", 5), ("prompt_logprobs", -1),
        ("allowed_token_ids", [1, "TAG"]), ("stop_token_ids", ["TAG"]),
        ("logprob_token_ids", ["TAG"]), ("use_beam_search", True),
    ],
)  # fmt: skip
def test_requests_that_pass_the_guard_by_are_refused(guarded, two_modes, field, value):
    guarded()
    tag = two_modes.open_id("human")
    if isinstance(value, list):
        value = [tag if one == "TAG" else one for one in value]
    with pytest.raises(ValueError, match=f"prealign guard: {field}"):
        ModeGuard.validate_params(params(**{field: value}))


def test_a_step_of_beam_search_is_known_by_its_look(guarded):
    """vLLM turns a beam search into requests for one id each, of ids that it wrote itself."""
    guarded()
    beam = {"max_tokens": 1, "logprobs": 4, "detokenize": False}
    with pytest.raises(ValueError, match="a step of beam search"):
        ModeGuard.validate_params(params(**beam))
    for change in ({"max_tokens": 2}, {"logprobs": None}, {"detokenize": True}):
        ModeGuard.validate_params(params(**(beam | change)))


def test_ordinary_requests_pass(guarded):
    guarded()
    ModeGuard.validate_params(
        params(
            temperature=0.7,
            top_p=0.9,
            max_tokens=9,
            logprobs=3,
            prompt_logprobs=0,
            min_tokens=0,
            ignore_eos=False,
            stop_token_ids=[3],
            allowed_token_ids=None,
            logit_bias={300: 100.0},
        )
    )


# --- Configurations ---


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"reasoning_config": object()}, "reasoning_config"),
        ({"enable_trace_replay": True}, "enable_trace_replay=True"),
        ({"enable_prompt_embeds": True}, "enable_prompt_embeds=True"),
        ({"diffusion_config": object()}, "diffusion_config"),
        ({"logprobs_mode": "raw_logprobs"}, "logprobs_mode='raw_logprobs'"),
        ({"logprobs_mode": "raw_logits"}, "logprobs_mode='raw_logits'"),
        ({"device_config": SimpleNamespace(device_type="tpu")}, "device 'tpu'"),
        (
            {"speculative_config": SimpleNamespace(rejection_sample_method="synthetic")},
            "rejection_sample_method='synthetic'",
        ),
        (
            {"speculative_config": SimpleNamespace(rejection_sample_method="fly")},
            "rejection_sample_method='fly'",
        ),
        (
            {"v2": False, "speculative_config": SimpleNamespace(), "logits_processors": ["x:Y"]},
            "speculative_config with the V1 model runner",
        ),
        ({"v2": False}, "async_scheduling=True with the V1"),
    ],
)
def test_each_way_around_the_guard_is_found_alone(folder, two_modes, change, setting):
    found = findings(config(folder, two_modes.size, **change))
    assert [one.setting[: len(setting)] for one in found] == [setting]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"speculative_config": SimpleNamespace(rejection_sample_method="standard")},
        {"speculative_config": SimpleNamespace(rejection_sample_method="block")},
        {"logprobs_mode": "raw_logprobs", "max_logprobs": 0},
        {"v2": False, "logits_processors": ["prealign.guard.vllm:ModeGuard"]},
        {"v2": False, "scheduler_config": SimpleNamespace(async_scheduling=False)},
    ],
)
def test_configurations_that_hold_are_let_pass(folder, two_modes, change):
    environment = {"PREALIGN_GUARD": "lock ai", "PREALIGN_GUARD_MODEL": str(folder)}
    table = check_config(config(folder, two_modes.size, **change), environment)
    assert [one.name for one in table.policies] == ["lock ai"]


def test_the_refusal_has_a_line_for_each_and_the_engine_does_not_start(guarded, two_modes):
    vllm_config = guarded()
    vllm_config.reasoning_config = object()
    vllm_config.model_config.enable_trace_replay = True
    vllm_config.model_config.get_vocab_size = lambda: 7
    with pytest.raises(GuardError) as error:
        ModeGuard(vllm_config, SimpleNamespace())
    lines = str(error.value).splitlines()
    assert len(lines) == 4
    assert lines[3] == f"  the engine has 7 ids, the guard {two_modes.size}; serve its own folder"


# --- vLLM's own base classes ---


def test_it_is_both_of_vllms_classes_where_vllm_is_installed(monkeypatch):
    """V2 refuses to load a class that is not its own, and so does V1."""

    class First(abc.ABC):
        @abc.abstractmethod
        def apply(self, logits, ctx): ...

    class Second(abc.ABC):
        @abc.abstractmethod
        def __init__(self, vllm_config, device, is_pin_memory): ...
        @abc.abstractmethod
        def apply(self, logits): ...
        @abc.abstractmethod
        def is_argmax_invariant(self): ...
        @abc.abstractmethod
        def update_state(self, batch_update): ...

    places = {"vllm.v1.worker.gpu.sample.logits_processor": First,
              "vllm.v1.sample.logits_processor": Second}  # fmt: skip
    for name, base in places.items():
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            inner = ".".join(parts[:length])
            if inner not in sys.modules or length == len(parts):
                monkeypatch.setitem(sys.modules, inner, types.ModuleType(inner))
        sys.modules[name].LogitsProcessor = base
    monkeypatch.delenv("PREALIGN_GUARD", raising=False)
    try:
        again = importlib.reload(vllm).ModeGuard
        assert issubclass(again, First)
        assert issubclass(again, Second)
        again(config("some/model", 9), torch.device("cpu"), False)
    finally:
        monkeypatch.undo()
        importlib.reload(vllm)


def test_the_entry_point_names_the_class():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    [(name, value)] = project["entry-points"]["vllm.logits_processors"].items()
    loaded = EntryPoint(name, value, "vllm.logits_processors").load()
    assert loaded.__name__ == "ModeGuard"


def test_parameters_are_judged_by_the_table_that_is_given(two_modes):
    table = policies_from("stay", two_modes)
    check_params(table, params("stay"))
    with pytest.raises(GuardError, match="this server allows stay"):
        check_params(table, params("lock ai"))


def test_vllms_interfaces_are_as_they_are_recorded_here():
    """Run it where vLLM is installed: names and orders are what the plug-in reads."""
    first = pytest.importorskip("vllm.v1.sample.logits_processor")
    second = pytest.importorskip("vllm.v1.worker.gpu.sample.logits_processor.interface")
    assert issubclass(ModeGuard, first.LogitsProcessor)
    assert issubclass(ModeGuard, second.LogitsProcessor)
    assert not ModeGuard.__abstractmethods__
    assert [way.name for way in first.MoveDirectionality] == [way.name for way in Way]
    assert list(first.BatchUpdate.__annotations__) == list(Update._fields)
    rows = {"expanded_idx_mapping", "expanded_local_pos", "input_ids", "pos"}
    assert rows <= set(second.LogitsContext.__annotations__)
    requests = {"all_token_ids", "prompt_len", "total_len"}
    assert requests <= set(second.LogitsProcRequestState.__annotations__)
    for base in (first.LogitsProcessor, second.LogitsProcessor):
        for name in vars(base):
            assert name in vars(ModeGuard) or name.startswith("_")
