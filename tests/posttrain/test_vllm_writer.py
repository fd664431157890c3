"""vLLM in the place of the sampler, by an engine that stands in for it."""

from types import SimpleNamespace

import pytest
import torch

from prealign.errors import ConfigError, DataError, GuardError, MissingDependency
from prealign.guard.policy import lock, stay
from prealign.guard.table import table_of
from prealign.models.create import LlamaShape, make_model
from prealign.models.files import load_model
from prealign.models.sample import Sampling
from prealign.posttrain import vllm_writer
from prealign.posttrain.rollouts import Stage, Task
from prealign.posttrain.vllm_writer import VllmSampler, open_vllm
from prealign.text.document import Document, Span
from prealign.text.scheme import TWO_MODES
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary

SHAPE = LlamaShape(width=32, layers=1, heads=2, max_tokens=64)
SETTINGS = Sampling(temperature=1.0, top_p=1.0, max_text_tokens=4)


class Engine:
    """Writes what it is told, and keeps what it is given."""

    def __init__(self, ids=()):
        self.ids, self.weights, self.asked, self.forgotten = list(ids), [], [], 0

    def collective_rpc(self, method, *, kwargs):
        assert method == "reload_weights"
        self.weights.append({name: w.clone() for name, w in kwargs["weights_iterator"]})

    def reset_prefix_cache(self):
        self.forgotten += 1

    def generate(self, prompts, params, *, use_tqdm):
        self.asked.append(list(zip(prompts, params, strict=True)))
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=self.ids)]) for _ in prompts]


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary(train_text_tokenizer(["to be or not\n"], size=260), TWO_MODES)


@pytest.fixture
def model(vocabulary):
    return make_model(SHAPE, vocabulary.size, seed=0)


def writer(engine, vocabulary, policy=None):
    table = table_of(vocabulary, policy or stay(TWO_MODES))
    return VllmSampler(engine, lambda **fields: fields, table, room=32)


def test_what_the_engine_writes_is_cut_as_our_sampler_cuts(model, vocabulary):
    end = vocabulary.end_id
    cases = {
        (7, 8, 9, 10, 11): ((7, 8, 9, 10), "budget"),
        (7, 8, end): ((7, 8), "end"),
        (end,): ((), "end"),
        (7, 8): ((7, 8), "room"),
    }
    for ids, (kept, stopped) in cases.items():
        write = writer(Engine(ids), vocabulary)
        (one,) = write(model, [[end, 5]], SETTINGS, seeds=[3], vocabulary=vocabulary)
        assert (one.ids, one.stopped, one.prompt_ids) == (kept, stopped, (end, 5))


def test_tags_are_not_counted_as_text_and_close_where_the_policy_lets_them(model, vocabulary):
    policy = lock(TWO_MODES, "ai")
    table = table_of(vocabulary, policy)
    prompt = [vocabulary.end_id, *table.opening(0)]
    tags = vocabulary.tag_ids

    def written(*ids):
        write = writer(Engine(ids), vocabulary, policy)
        (one,) = write(model, [prompt], SETTINGS, seeds=[0], vocabulary=vocabulary)
        return one.ids, one.stopped

    quoted = (7, tags["<quote>"], 8, tags["</quote>"], 9, 10)
    assert written(*quoted, 11) == (quoted, "budget")
    assert written(7, tags["</ai>"], vocabulary.end_id) == ((7, tags["</ai>"]), "end")
    with pytest.raises(GuardError):
        written(7, tags["<human>"])


def test_each_call_gives_the_engine_the_weights_as_they_are_then(model, vocabulary):
    engine = Engine([7])
    write = writer(engine, vocabulary)
    for _ in range(2):
        write(model, [[5]], SETTINGS, seeds=[0], vocabulary=vocabulary)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(1)
    first, second = engine.weights
    assert engine.forgotten == 2
    assert set(first) == {name for name, _ in model.named_parameters(remove_duplicate=False)}
    assert "lm_head.weight" in first
    for name, weight in first.items():
        assert torch.equal(second[name], weight + 1)


def test_requests_have_their_own_seeds_and_as_much_room_as_there_is(model, vocabulary):
    engine = Engine([7])
    prompts = [[5] * 3, [5] * 28]
    writer(engine, vocabulary)(model, prompts, SETTINGS, seeds=[1, 2], vocabulary=vocabulary)
    ((_, one), (_, other)) = engine.asked[0]
    assert (one["seed"], other["seed"]) == (1, 2)
    assert (one["max_tokens"], other["max_tokens"]) == (12, 4)
    assert one["extra_args"] == {"prealign_policy": "stay"}


def test_what_vllm_cannot_do_is_refused(model, vocabulary):
    write = writer(Engine([7]), vocabulary)
    with pytest.raises(DataError, match="32 tokens"):
        write(model, [[5] * 32], SETTINGS, seeds=[0], vocabulary=vocabulary)
    least = Sampling(max_text_tokens=4, min_text_tokens=2)
    with pytest.raises(ConfigError, match="min_text_tokens=2"):
        write(model, [[5]], least, seeds=[0], vocabulary=vocabulary)
    model.register_parameter("lora_A", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(ConfigError, match="adapters"):
        write(model, [[5]], SETTINGS, seeds=[0], vocabulary=vocabulary)


def test_it_opens_with_an_output_layer_of_its_own(model, vocabulary, tmp_path, monkeypatch):
    seen = {}

    class Llm(Engine):
        def __init__(self, folder, **options):
            super().__init__([7])
            seen.update(options, folder=folder)
            self.llm_engine = SimpleNamespace(vllm_config=None)

    for name in ("PREALIGN_GUARD", "PREALIGN_GUARD_MODEL", vllm_writer.IN_PROCESS):
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(vllm_writer, "LLM", Llm)
    monkeypatch.setattr(vllm_writer, "check_config", lambda config: None)
    write = open_vllm(model, vocabulary, tmp_path / "m", enforce_eager=True)
    assert write.room == seen["max_model_len"] == 64
    assert seen["enforce_eager"]
    assert write.name == "vllm: stay"
    saved = load_model(tmp_path / "m").model
    assert model.config.tie_word_embeddings
    assert not saved.config.tie_word_embeddings
    assert torch.equal(saved.lm_head.weight, model.lm_head.weight)
    monkeypatch.setenv(vllm_writer.IN_PROCESS, "1")
    with pytest.raises(ConfigError, match="must run in this process"):
        open_vllm(model, vocabulary, tmp_path / "m")


def test_without_vllm_it_says_what_to_install(model, vocabulary, tmp_path, monkeypatch):
    monkeypatch.setenv(vllm_writer.IN_PROCESS, "0")
    monkeypatch.setattr(vllm_writer, "LLM", None)
    with pytest.raises(MissingDependency, match="pip install vllm"):
        open_vllm(model, vocabulary, tmp_path / "m")


def test_a_stage_has_its_rollouts_written_by_it_under_its_own_policy(model, vocabulary):
    engine = Engine([7, 8, vocabulary.end_id])
    write = writer(engine, vocabulary)
    task = Task(Document("a", "to be", (Span(0, 5),)))
    fields = {"vocabulary": vocabulary, "sampling": SETTINGS, "tagged": False}
    stage = Stage(policy=stay(TWO_MODES), writer=write, **fields)
    rollouts = stage.write(model, [task], 0, count=2, seed=1)
    assert [one.completion for one in rollouts] == [(7, 8, vocabulary.end_id)] * 2
    assert rollouts[0].text == vocabulary.decode_text([7, 8])
    seeds = [fields["seed"] for _, fields in engine.asked[0]]
    assert len(set(seeds)) == 2
    assert stage.identity()["writer"] == "vllm: stay"
    assert "writer" not in Stage(policy=stay(TWO_MODES), **fields).identity()
    with pytest.raises(ConfigError, match="under another policy"):
        Stage(policy=lock(TWO_MODES, "ai"), writer=write, **fields)
