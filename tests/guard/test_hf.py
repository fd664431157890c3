import ast
import math
import random
from pathlib import Path

import pytest
import torch
from transformers import LogitsProcessor, WatermarkingConfig
from transformers.generation.streamers import BaseStreamer

import prealign.guard
from prealign.errors import GuardError
from prealign.guard import hf_generate
from prealign.guard.gate import Guard
from prealign.guard.hf import ModeGuardLogitsProcessor, ModeGuardStreamer, RowGate, Rows
from prealign.guard.hf_generate import check_output, guarded_generate
from prealign.guard.policy import free, lock, lock_noquote, stay
from prealign.guard.table import table_of
from prealign.text.scheme import TWO_MODES
from prealign.tokens.vocabulary import Vocabulary
from tests.guard.hf_models import tiny

POLICIES = ("stay", "lock ai", "lock-noquote ai", "lock ai, 3 in a quote")
DRAWN = {"do_sample": True, "top_k": 0}


@pytest.fixture(scope="module")
def two(vocabulary):
    return Vocabulary(vocabulary.tokenizer, TWO_MODES)


@pytest.fixture(scope="module")
def table(two):
    short = lock(TWO_MODES, "ai", longest=3)
    return table_of(
        two,
        stay(TWO_MODES),
        lock(TWO_MODES, "ai"),
        lock_noquote(TWO_MODES, "ai"),
        type(short)(name=POLICIES[3], rules=short.rules, start=short.start),
        free(TWO_MODES),
    )


def adversary(two, *, seed=0):
    return tiny(two, dict.fromkeys([*two.tag_ids.values(), two.inert_id], 1e4), seed=seed)


def paths(two):
    draft = adversary(two, seed=1)
    return {
        "greedy": {},
        "sampling": DRAWN,
        "beams": {"num_beams": 3, "num_return_sequences": 3},
        "beam sampling": {"num_beams": 3, **DRAWN},
        "assisted": {"assistant_model": draft},
        "assisted sampling": {"assistant_model": draft, **DRAWN},
        "prompt lookup": {"prompt_lookup_num_tokens": 3},
    }


def prompt(two, table, policy, text="a b a b"):
    return torch.tensor([[two.end_id, *table.opening(policy), *two.encode_text(text)]])


class Collected(BaseStreamer):
    def __init__(self):
        self.ids, self.ended = [], False

    def put(self, value):
        self.ids += value.flatten().tolist()

    def end(self):
        self.ended = True


# ---------------------------------------------------------------- all ways to generate


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("path", range(7))
def test_an_adversary_writes_no_denied_id_on_any_path(two, table, policy, path):
    torch.manual_seed(0)
    guard = Guard(table)
    given = prompt(two, table, policy)
    how = list(paths(two).values())[path]
    out = guarded_generate(
        adversary(two), table, given, policy=policy, guard=guard, max_new_tokens=12, **how
    )
    written = 0
    for row in out.tolist():
        state = guard.scan(row[: given.shape[1]], policy)
        for token in row[given.shape[1] :]:
            if token == two.inert_id:
                break
            assert table.allowed(state)[token]
            state = table.scan([token], state)
            written += 1
    assert guard.gate_ids == written > 0
    assert guard.fired == 0
    assert guard.pressure().max() == 1


@pytest.mark.parametrize("policy", ["stay", "lock-noquote ai"])
@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("path", range(7))
def test_with_the_mask_off_the_gate_refuses_every_path(two, table, policy, tokens, path):
    torch.manual_seed(0)
    model = tiny(two, {two.open_id("human"): 1e4})
    how = dict(list(paths(two).values())[path])
    if "assistant_model" in how:
        how["assistant_model"] = model
    with pytest.raises(GuardError, match="<human>"):
        guarded_generate(
            model, table, prompt(two, table, policy), policy=policy,
            guard=Guard(table, mask=False), max_new_tokens=tokens, **how,
        )  # fmt: skip


def test_greedy_is_the_argmax_among_allowed_ids(two, table):
    model = tiny(two, {two.open_id("human"): 5.0})
    given = prompt(two, table, "lock ai")
    out = guarded_generate(model, table, given, policy="lock ai", max_new_tokens=9)[0].tolist()
    ids = given[0].tolist()
    state = table.scan(ids, table.start("lock ai"))
    for token in out[len(ids) :]:
        logits = model(torch.tensor([ids])).logits[0, -1]
        logits[torch.from_numpy(~table.allowed(state))] = -math.inf
        assert token == int(logits.argmax())
        ids.append(token)
        state = table.scan([token], state)
    assert out == ids


def test_rows_padded_in_front_are_written_as_if_alone(two, table):
    model = adversary(two)
    texts = ["a", "b a b a b", "print"]
    alone = [
        guarded_generate(
            model, table, prompt(two, table, "lock ai", text), policy="lock ai", max_new_tokens=8
        )[0].tolist()
        for text in texts
    ]
    rows = [prompt(two, table, "lock ai", text)[0].tolist() for text in texts]
    width = max(map(len, rows))
    padded = torch.tensor([[two.inert_id] * (width - len(row)) + row for row in rows])
    out = guarded_generate(model, table, padded, policy="lock ai", max_new_tokens=8).tolist()
    for row, found, lone in zip(rows, out, alone, strict=True):
        own = found[width - len(row) :]
        assert own[: len(lone)] == lone
        assert set(own[len(lone) :]) <= {two.inert_id}


def test_padding_with_the_end_of_text_gives_the_same(two, table):
    model = adversary(two)
    rows = [prompt(two, table, "stay", text)[0].tolist() for text in ("a", "b a b")]
    width = max(map(len, rows))
    found = []
    for pad in (two.inert_id, two.end_id):
        padded = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        out = guarded_generate(
            model, table, padded, attention_mask=mask, pad_token_id=pad, max_new_tokens=8
        )
        found.append(out[:, width:].masked_fill(out[:, width:] == pad, -1).tolist())
    assert found[0] == found[1]


def test_rows_stop_at_the_end_of_text_and_where_the_caller_says(two, table):
    model = tiny(two, {two.end_id: 1e4})
    given = prompt(two, table, "stay").repeat(2, 1)
    assert (
        guarded_generate(model, table, given, max_new_tokens=9)[:, -1].tolist() == [two.end_id] * 2
    )
    stop = [lambda ids, scores: torch.tensor([ids.shape[1] > given.shape[1] + 2, False])]
    out = guarded_generate(tiny(two), table, given, max_new_tokens=6, stopping_criteria=stop)
    assert (out[0, given.shape[1] + 3 :] == two.inert_id).all()
    assert not (out[1, given.shape[1] :] == two.inert_id).any()


def test_a_dictionary_is_returned_where_it_is_asked_for(two, table):
    given = prompt(two, table, "stay")
    out = guarded_generate(
        adversary(two), table, given, max_new_tokens=3, return_dict_in_generate=True,
        output_logits=True, output_scores=True,
    )  # fmt: skip
    tag = two.open_id("human")
    assert float(out.logits[0][0, tag]) > 9e3  # what the model said is left as it was
    assert float(out.scores[0][0, tag]) == -math.inf


# ---------------------------------------------------------------- the processor


def rows_like(two, width, **others):
    return Rows(prompt_tokens=width, pad_id=two.inert_id, stop_ids=(two.end_id,), **others)


def walk(two, table, policy, tokens, seed):
    """Ids that the policy allows, behind its opening tags."""
    choose = random.Random(seed)
    ids = [two.end_id, *table.opening(policy)]
    state = table.scan(ids, table.start(policy))
    for _ in range(tokens):
        allowed = table.allowed(state)
        tags = [t for t in two.tag_ids.values() if allowed[t]]
        text = [t for t in range(20) if allowed[t]]
        pool = tags * bool(choose.random() < 0.5 or not text) or text
        ids.append(choose.choice(pool or [two.end_id]))
        state = table.scan(ids[-1:], state)
        if ids[-1] == two.end_id:
            break
    return ids


@pytest.mark.parametrize("policy", [*POLICIES[1:], "free"])
def test_the_memo_never_differs_from_reading_anew(two, table, policy):
    choose = random.Random(5)
    width = 1 + len(table.opening(policy))
    pool = [walk(two, table, policy, 14, seed) for seed in range(40)]
    kept = ModeGuardLogitsProcessor(Guard(table), rows_like(two, width, policy=policy))
    for _ in range(300):
        length = choose.randint(width, 12)
        rows = [ids[:length] for ids in pool if len(ids) >= length]
        batch = torch.tensor(choose.choices(rows or [pool[0][:width]], k=choose.randint(1, 6)))
        fresh = ModeGuardLogitsProcessor(Guard(table), rows_like(two, width, policy=policy))
        found = kept.places(batch)
        assert found == fresh.places(batch)
        for place, ids in zip(found, batch.tolist(), strict=True):
            assert place.state == table.scan(ids, table.start(policy))


@pytest.mark.parametrize("policy", ["stay", "lock ai"])
@pytest.mark.parametrize("path", range(7))
def test_within_generate_too_the_memo_is_what_the_ids_say(two, table, policy, path, monkeypatch):
    widths = []

    class Checked(ModeGuardLogitsProcessor):
        def places(self, input_ids):
            found = super().places(input_ids)
            assert found == [self._gate.whole(row) for row in input_ids.numpy()]
            widths.append(input_ids.shape[1])
            return found

    monkeypatch.setattr(hf_generate, "ModeGuardLogitsProcessor", Checked)
    torch.manual_seed(2)
    how = list(paths(two).values())[path]
    given = prompt(two, table, policy)
    model = tiny(two, dict.fromkeys([two.open_id("quote"), two.tag_ids["</quote>"]], 3.0))
    guarded_generate(model, table, given, policy=policy, max_new_tokens=12, **how)
    assert max(widths) >= given.shape[1] + 11


def test_the_usual_step_is_one_commit_for_all_rows(two, table):
    guard = Guard(table)
    processor = ModeGuardLogitsProcessor(guard, rows_like(two, 1))
    ids = torch.full((4, 1), two.end_id)
    calls = []
    for token in range(5):
        processor.places(ids)
        calls.append(processor._gate.guard.gate_calls)
        ids = torch.cat([ids[[1, 0, 3, 3]], torch.arange(4)[:, None] + token], dim=1)
    assert calls == [0, 1, 2, 3, 4]
    assert guard.gate_ids == 0


def test_the_memo_stays_small(two, table):
    processor = ModeGuardLogitsProcessor(Guard(table), rows_like(two, 1))
    ids = torch.full((100, 1), two.end_id)
    for _ in range(20):
        processor.places(ids)
        ids = torch.cat([ids, torch.randint(0, 20, (100, 1))], dim=1)
    assert len(processor._memo) <= 400


def test_scores_in_half_precision_are_masked_in_float32_and_left_as_they_were(two, table):
    processor = ModeGuardLogitsProcessor(Guard(table), rows_like(two, 1))
    for kind in (torch.float16, torch.bfloat16, torch.float32):
        scores = torch.zeros(1, two.size, dtype=kind)
        masked = processor(torch.tensor([[two.end_id]]), scores)
        assert masked.dtype == torch.float32
        assert masked[0].isinf().tolist() == (~table.allowed(0)).tolist()
        assert not scores.any()


def test_a_denied_id_among_those_written_is_refused(two, table):
    processor = ModeGuardLogitsProcessor(Guard(table), rows_like(two, 2))
    tag = two.open_id("human")
    scores = torch.zeros(1, two.size)
    processor(torch.tensor([[two.end_id, tag]]), scores)  # the harness wrote it
    with pytest.raises(GuardError, match="<human>"):
        processor(torch.tensor([[two.end_id, 5, tag]]), scores)
    with pytest.raises(GuardError, match="nobody"):
        processor(torch.tensor([[two.end_id, 5, two.inert_id]]), scores)
    with pytest.raises(GuardError, match="behind the end"):
        processor(torch.tensor([[two.end_id, 5, two.end_id, two.inert_id, 7]]), scores)


def test_rows_that_are_no_rows_are_refused(two, table):
    processor = ModeGuardLogitsProcessor(Guard(table), rows_like(two, 2))
    scores = torch.zeros(1, two.size)
    with pytest.raises(GuardError, match="continuous batching"):
        processor(torch.tensor([5]), scores)
    with pytest.raises(GuardError, match="shorter"):
        processor(torch.tensor([[5]]), scores)
    with pytest.raises(GuardError, match="cannot stand"):
        processor(torch.tensor([[5, two.tag_ids["</ai>"]]]), scores)
    with pytest.raises(GuardError, match="NaN"):
        processor(torch.tensor([[5, 5]]), scores * math.nan)


# ---------------------------------------------------------------- the streamer


@pytest.mark.parametrize("path", ["greedy", "sampling", "assisted", "prompt lookup"])
def test_a_streamer_gets_what_is_returned(two, table, path):
    torch.manual_seed(1)
    inner = Collected()
    given = prompt(two, table, "lock ai")
    out = guarded_generate(
        adversary(two), table, given, policy="lock ai", streamer=inner, max_new_tokens=9,
        **paths(two)[path],
    )  # fmt: skip
    assert inner.ids == out[0].tolist()
    assert inner.ended


def test_a_streamer_gets_no_denied_id(two, table):
    inner = Collected()
    given = prompt(two, table, "stay")
    model = tiny(two, {two.open_id("human"): 1e4})
    with pytest.raises(GuardError, match="<human>"):
        guarded_generate(
            model, table, given, guard=Guard(table, mask=False), streamer=inner, max_new_tokens=9
        )
    assert inner.ids == given[0].tolist()


def test_a_streamer_gets_nothing_of_ids_that_are_refused_together(two, table):
    inner = Collected()
    streamer = ModeGuardStreamer(inner, Guard(table), rows_like(two, 1))
    streamer.put(torch.tensor([[two.end_id]]))
    streamer.put(torch.tensor([[5, 6]]))
    with pytest.raises(GuardError, match="<ai>"):
        streamer.put(torch.tensor([[7, two.open_id("ai")]]))
    assert inner.ids == [two.end_id, 5, 6]


# ---------------------------------------------------------------- what is refused


class Loud(LogitsProcessor):
    """Wants a denied id more than anything."""

    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores):
        return scores.index_fill(-1, torch.tensor([self.token]), 1e30)


def test_the_guard_has_the_last_word_among_processors(two, table):
    loud = Loud(two.open_id("human"))
    out = guarded_generate(
        tiny(two), table, prompt(two, table, "stay"), max_new_tokens=5, logits_processor=[loud]
    )
    assert loud.token not in out[0].tolist()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"assistant_ensemble_weight": 0.5}, "share"),
        ({"forced_bos_token_id": 5}, "harness"),
        ({"forced_eos_token_id": 5}, "forced"),
        ({"token_healing": True}, "prompt"),
        ({"watermarking_config": WatermarkingConfig()}, "behind the mask"),
        ({"guidance_scale": 2.0}, "does not know"),
        ({"use_mtp": True}, "does not know"),
        ({"assistant_early_exit": 1}, "does not know"),
        ({"speculation_type": "dflash"}, "does not know"),
        ({"penalty_alpha": 0.6}, "does not know"),
        ({"dola_layers": "low"}, "does not know"),
        ({"num_beam_groups": 2}, "does not know"),
        ({"force_words_ids": [[5]]}, "does not know"),
        ({"prefill_chunk_size": 2}, "does not know"),
        ({"cache_implementation": "paged"}, "guarded_generate_batch"),
        ({"custom_generate": lambda **_: None}, "not known"),
        ({"inputs_embeds": torch.zeros(1)}, "embeddings"),
        ({"past_key_values": object()}, "cache"),
        ({"negative_prompt_ids": torch.zeros(1)}, "not those"),
        ({"assistant_tokenizer": object()}, "does not know"),
        ({"trust_remote_code": True}, "does not know"),
        ({"position_ids": torch.zeros(1)}, "does not know"),
        ({"eos_token_id": 5}, "end of text"),
        ({"pad_token_id": 5}, "neither text nor tag"),
    ],
)
def test_what_could_get_round_the_mask_is_refused(two, table, given, message):
    with pytest.raises(GuardError, match=message):
        guarded_generate(tiny(two), table, prompt(two, table, "stay"), max_new_tokens=2, **given)


@pytest.mark.parametrize(
    "setting",
    [
        lambda token: {"bad_words_ids": [[5], [6, token]]},
        lambda token: {"sequence_bias": {(5, token): 2.0}},
        lambda token: {"sequence_bias": [[[5], 1.0], [[token], -2.0]]},
        lambda token: {"suppress_tokens": [5, token]},
        lambda token: {"begin_suppress_tokens": [token]},
    ],
)
def test_biases_may_name_text_alone(two, table, setting):
    given = prompt(two, table, "stay")
    for token in (two.open_id("ai"), two.end_id, two.inert_id, two.size, -1):
        with pytest.raises(GuardError, match="no text"):
            guarded_generate(tiny(two), table, given, max_new_tokens=2, **setting(token))
    out = guarded_generate(tiny(two), table, given, max_new_tokens=2, **setting(7))
    assert out.shape[1] == given.shape[1] + 2


def test_settings_of_the_model_itself_are_looked_at(two, table):
    model = tiny(two)
    model.generation_config.assistant_ensemble_weight = 0.5
    with pytest.raises(GuardError, match="assistant_ensemble_weight"):
        guarded_generate(model, table, prompt(two, table, "stay"), max_new_tokens=2)


@pytest.mark.parametrize("token", ["size", "inert", "close", -1])
def test_prompts_of_other_ids_are_refused(two, table, token):
    named = {"size": two.size, "inert": two.inert_id, "close": two.tag_ids["</ai>"]}
    bad = torch.tensor([[two.end_id, named.get(token, token), 5]])
    with pytest.raises(GuardError, match="prompt"):
        guarded_generate(tiny(two), table, bad, max_new_tokens=2)


def test_a_model_over_other_ids_is_refused(two, table, vocabulary):
    with pytest.raises(GuardError, match="ids"):
        guarded_generate(tiny(vocabulary), table, prompt(two, table, "stay"), max_new_tokens=2)
    with pytest.raises(GuardError, match="assistant_model"):
        guarded_generate(
            tiny(two), table, prompt(two, table, "stay"), assistant_model=tiny(vocabulary)
        )


def test_a_guard_of_another_table_is_refused(two, table):
    other = Guard(table_of(two, stay(TWO_MODES)))
    with pytest.raises(GuardError, match="another table"):
        guarded_generate(tiny(two), table, prompt(two, table, "stay"), guard=other)


# ---------------------------------------------------------------- what came out


def test_what_came_out_is_compared_with_what_went_in(two, table):
    given = torch.tensor([[two.end_id, 5]])
    fine = torch.tensor([[two.end_id, 5, 6, two.end_id, two.inert_id]])

    def check(*rows):
        check_output(RowGate(Guard(table), rows_like(two, 2), last=True), given, torch.tensor(rows))

    check(*fine.tolist())
    check(*fine.tolist() * 3)
    with pytest.raises(GuardError, match="changed"):
        check([two.end_id, 6, 6])
    with pytest.raises(GuardError, match="behind the end"):
        check([two.end_id, 5, two.end_id, 6])
    with pytest.raises(GuardError, match="nobody"):
        check([two.end_id, 5, two.inert_id])
    with pytest.raises(GuardError, match="whose"):
        check([two.end_id])
    with pytest.raises(GuardError, match="not in"):
        check([two.end_id, 5, two.size])


def test_only_the_adapter_imports_transformers():
    for file in Path(prealign.guard.__file__).parent.glob("*.py"):
        tree = ast.parse(file.read_text())
        named = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        named += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        if any(name.split(".")[0] == "transformers" for name in named):
            assert file.name.startswith("hf"), file.name


def test_a_minimum_that_forbids_the_only_choice_is_refused_and_nothing_written(two, table):
    model = tiny(two, {two.tag_ids["</ai>"]: 1e4})
    with pytest.raises(GuardError, match=r"no allowed id|no id at all"):
        guarded_generate(
            model, table, prompt(two, table, "lock ai"), policy="lock ai", min_new_tokens=5,
            max_new_tokens=8,
        )  # fmt: skip
