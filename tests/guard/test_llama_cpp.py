"""The guard around llama.cpp: a fake `Llama` that does as llama-cpp-python does, and a real one."""

import itertools
import math
import sys

import numpy as np
import pytest

from prealign.errors import ConfigError, GuardError
from prealign.guard.engine import check_engine
from prealign.guard.llama_cpp import ModeMask, guarded_tokens
from prealign.guard.policy import lock
from prealign.guard.table import table_of
from prealign.text.scheme import TWO_MODES
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary
from tests.guard.recorded_engines import expected


@pytest.fixture(scope="module")
def two_modes():
    return Vocabulary(train_text_tokenizer(["to be or not to be\n"], size=258), TWO_MODES)


@pytest.fixture(scope="module")
def table(two_modes):
    return table_of(two_modes, lock(TWO_MODES, "ai"))


@pytest.fixture
def prompt(two_modes):
    return [two_modes.end_id, two_modes.open_id("ai"), 5]


class FakeLlama:
    """Greedy; logits lie in records, as llama.cpp's do, and what its callback raises is lost."""

    def __init__(self, size, wanted, *, drop_mask_at=None):
        self.size, self.wanted, self.drop_mask_at = size, wanted, drop_mask_at
        self.draft_model = None
        self.prompts = []

    def n_vocab(self):
        return self.size

    def generate(self, tokens, *, logits_processor, reset=True, stop=40):
        assert type(tokens) is list
        self.prompts.append(tokens)
        ids = np.array(tokens, dtype=np.intc)
        for step in range(stop):
            cells = np.zeros(self.size, [("id", np.intc), ("logit", np.single), ("p", np.single)])
            cells["logit"] = np.random.default_rng(step).standard_normal(self.size)
            cells["logit"][list(self.wanted)] += 1e4
            for processor in logits_processor:
                if step == self.drop_mask_at:
                    break
                try:
                    cells["logit"][:] = processor(ids, cells["logit"])
                except Exception:
                    break
            token = int(cells["logit"].argmax())
            yield token
            ids = np.append(ids, np.intc(token))


def test_ids_come_out_up_to_the_end_and_each_was_allowed(two_modes, table, prompt):
    tags = two_modes.tag_ids
    llama = FakeLlama(two_modes.size, [tags["<human>"], tags["<quote>"], tags["</quote>"]])
    ids = list(guarded_tokens(llama, table, prompt, stop=9))
    assert ids == [tags["<quote>"], tags["</quote>"]] * 4 + [tags["<quote>"]]
    llama = FakeLlama(two_modes.size, [two_modes.end_id, tags["<human>"]])
    assert list(guarded_tokens(llama, table, prompt)) == []  # the end itself is not text
    assert llama.prompts == [prompt]


@pytest.mark.parametrize("step", [0, 3])
def test_an_id_from_a_step_without_the_mask_is_not_yielded(two_modes, table, prompt, step):
    llama = FakeLlama(two_modes.size, [two_modes.open_id("human")], drop_mask_at=step)
    stream = guarded_tokens(llama, table, prompt)
    passed = [next(stream) for _ in range(step)]
    with pytest.raises(GuardError, match=r"<human>.* is denied in ai"):
        next(stream)
    assert two_modes.open_id("human") not in passed


def test_other_processors_run_in_front_of_the_mask(two_modes, table, prompt):
    human = two_modes.open_id("human")

    def bias(ids, scores):
        scores[human] = np.inf
        return scores

    llama = FakeLlama(two_modes.size, [7])
    ids = list(guarded_tokens(llama, table, prompt, logits_processor=[bias], stop=5))
    assert ids == [7] * 5


def test_the_mask_that_cannot_judge_denies_everything_and_the_gate_says_why(table, prompt):
    """In llama.cpp's callback an error would be lost, and the logits left as they were."""
    for ids, scores in [
        ([9, 9, 9, 9], np.zeros(table.ids.size, np.float32)),  # another prompt
        (prompt[:2], np.zeros(table.ids.size, np.float32)),
        ([*prompt, 10_000], np.zeros(table.ids.size, np.float32)),
        (prompt, np.zeros(7, np.float32)),
        (prompt, np.zeros(table.ids.size, np.float64)),
    ]:
        mask = ModeMask(table, prompt)
        assert np.isneginf(mask(np.array(ids, dtype=np.intc), scores)).all()
        assert mask.error


def test_a_step_that_the_mask_could_not_judge_ends_the_text(two_modes, table, prompt):
    def vandal(ids, scores):
        ids[0] = 3
        return scores

    stream = guarded_tokens(
        FakeLlama(two_modes.size, [7]), table, prompt, logits_processor=[vandal]
    )
    with pytest.raises(GuardError, match="no id could be chosen"):
        next(stream)


def test_the_state_is_a_function_of_the_ids_alone(two_modes, table, prompt):
    """Rolled back, changed in the middle, repeated or jumped: as if read for the first time."""
    rng = np.random.default_rng(0)
    specials = [*two_modes.tag_ids.values(), two_modes.end_id]
    mask, ids = ModeMask(table, prompt), list(prompt)
    for _ in range(400):
        ids = ids[: max(len(prompt), len(ids) - int(rng.integers(0, 3)))]
        for _ in range(int(rng.integers(0, 3))):
            fine = expected(table, None, prompt, ids[len(prompt) :])
            special = [token for token in specials if fine[token]]
            ids.append(int(rng.choice(special if special and rng.random() < 0.7 else [0, 1])))
        if rng.random() < 0.05 and len(ids) > len(prompt):
            ids[int(rng.integers(len(prompt), len(ids)))] = int(rng.choice(specials))
        scores = rng.standard_normal(table.ids.size).astype(np.float32)
        masked = mask(np.array(ids, dtype=np.intc), scores.copy())
        fine = expected(table, None, prompt, ids[len(prompt) :])
        wanted = np.where(fine, scores, -np.inf)
        broken = mask.error is not None
        assert np.array_equal(masked, np.full_like(scores, -np.inf) if broken else wanted)
        assert not broken or fine.nonzero()[0].tolist() == [two_modes.end_id]
        if broken:
            mask, ids = ModeMask(table, prompt), list(prompt)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reset": False}, "reset=False"),
        ({"repeat_penalty": 0.0}, "repeat_penalty=0"),
        ({"repeat_penalty": -1.0}, "repeat_penalty=-1"),
        ({"repeat_penalty": math.nan}, "repeat_penalty=nan"),
        ({"temp": math.inf}, "temp=inf"),
        ({"presence_penalty": -math.inf}, "presence_penalty=-inf"),
    ],
)
def test_settings_that_would_undo_the_mask_are_refused(two_modes, table, prompt, settings, message):
    stream = guarded_tokens(FakeLlama(two_modes.size, [7]), table, prompt, **settings)
    with pytest.raises(ConfigError, match=message):
        next(stream)


def test_models_that_the_guard_cannot_follow_are_refused(two_modes, table, prompt):
    llama = FakeLlama(two_modes.size, [7])
    llama.draft_model = object()
    with pytest.raises(GuardError, match="draft_model"):
        next(guarded_tokens(llama, table, prompt))
    with pytest.raises(GuardError, match="7 ids"):
        next(guarded_tokens(FakeLlama(7, [5]), table, prompt))
    with pytest.raises(GuardError, match="prompt: </quote>"):
        next(guarded_tokens(FakeLlama(two_modes.size, [7]), table, [two_modes.tag_ids["</quote>"]]))


def test_the_canary_goes_through_it(two_modes, table):
    def write(token, prompt, settings):
        llama = FakeLlama(two_modes.size, [token])
        return list(guarded_tokens(llama, table, prompt, **settings))

    def without(token, prompt, settings):
        return list(
            FakeLlama(two_modes.size, [token]).generate(prompt, logits_processor=[], **settings)
        )

    settings = {"short": {"stop": 5}}
    prefix = [two_modes.end_id]
    assert check_engine(write, table, settings=settings, prefix=prefix, control=without).runs == 5
    with pytest.raises(GuardError, match="a denied id came out"):
        check_engine(without, table, settings=settings, prefix=prefix)


# --- A real llama.cpp ---


def write_gguf(path, vocabulary, *, width=64, layers=2, seed=0):
    """Write a Llama of random weights, with the vocabulary as llama.cpp wants it."""
    gguf = pytest.importorskip("gguf")
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in {
        "block_count": layers, "context_length": 256, "embedding_length": width,
        "feed_forward_length": 2 * width, "head_count": 2, "head_count_kv": 2,
        "layer_norm_rms_eps": 1e-5, "rope_dimension_count": width // 2,
    }.items():  # fmt: skip
        getattr(writer, f"add_{name}")(value)
    kind = gguf.TokenType
    text = [vocabulary.tokenizer.id_to_token(i) for i in range(vocabulary.text_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*text, "<end>", *vocabulary.tag_ids, "<inert>"])
    tags = [kind.CONTROL] * (1 + len(vocabulary.tag_ids))
    writer.add_token_types([*[kind.NORMAL] * len(text), *tags, kind.UNUSED])
    writer.add_token_merges(["t o"])
    writer.add_eos_token_id(vocabulary.end_id)
    writer.add_bos_token_id(vocabulary.end_id)
    shapes = {"token_embd": (vocabulary.size, width), "output": (vocabulary.size, width)}
    for i in range(layers):
        shapes |= {f"blk.{i}.{name}": (width, width)
                   for name in ("attn_q", "attn_k", "attn_v", "attn_output")}  # fmt: skip
        shapes |= {f"blk.{i}.{name}": (2 * width, width) for name in ("ffn_gate", "ffn_up")}
        shapes[f"blk.{i}.ffn_down"] = (width, 2 * width)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", 0.3 * rng.standard_normal(shape).astype(np.float32))
    for name in (
        "output_norm",
        *(f"blk.{i}.{n}_norm" for i in range(layers) for n in ("attn", "ffn")),
    ):
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def real(two_modes, tmp_path_factory):
    llama_cpp = pytest.importorskip("llama_cpp")
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, two_modes)
    llama = llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, seed=3, verbose=False)
    yield llama
    llama.close()


SETTINGS = {
    "greedy": {"temp": 0.0},
    "drawn": {"temp": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
    "nucleus": {"temp": 0.8, "repeat_penalty": 1.3, "presence_penalty": 0.5},
    "mirostat": {"mirostat_mode": 2},
}


def biased(token, by=1e4):
    def bias(ids, scores):
        scores[token] += by
        return scores

    return bias


@pytest.mark.slow
def test_a_real_llama_cpp_passes_the_canary_and_fails_it_without_the_mask(real, two_modes, table):
    def write(token, prompt, setting):
        stream = guarded_tokens(real, table, prompt, logits_processor=[biased(token)], **setting)
        return list(itertools.islice(stream, 6))

    def without(token, prompt, setting):
        stream = real.generate(prompt, logits_processor=[biased(token)], **setting)
        return list(itertools.islice(stream, 6))

    prefix = [two_modes.end_id]
    report = check_engine(write, table, settings=SETTINGS, prefix=prefix, control=without)
    assert report.runs == 5 * len(SETTINGS)
    with pytest.raises(GuardError, match="a denied id came out"):
        check_engine(without, table, settings=SETTINGS, prefix=prefix)


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_real_llama_cpp_writes_only_what_is_allowed(real, two_modes, table, prompt, setting):
    """It wants tags, allowed or not: the mask keeps to the policy, so the gate never fires."""

    def wish(ids, scores):
        scores[list(two_modes.tag_ids.values())] += 8
        return scores

    tags = 0
    for first in range(10):
        start = [*prompt, first]
        stream = guarded_tokens(real, table, start, logits_processor=[wish], **SETTINGS[setting])
        ids = list(itertools.islice(stream, 100))
        for at, token in enumerate(ids):
            assert expected(table, None, start, ids[:at])[token]
        tags += len(set(ids) & set(two_modes.tag_ids.values()))
    assert tags > 5


@pytest.mark.slow
def test_what_the_mask_raises_is_lost_in_a_real_llama_cpp(real, prompt, monkeypatch):
    """Why the mask here never raises: llama.cpp goes on with the logits as they were."""

    def broken(ids, scores):
        scores[7] += 1e4
        raise ValueError("lost")

    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lambda one: lost.append(str(one.exc_value)))
    assert next(real.generate(prompt, logits_processor=[broken], temp=0.0)) == 7
    assert lost == ["lost"]
