import numpy as np
import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from prealign.errors import ConfigError, DataError, GuardError
from prealign.models.create import LlamaShape, make_model
from prealign.models.fake import BiasedModel, UniformModel
from prealign.models.sample import AtBorders, Sampling, sample

GREEDY = Sampling(temperature=0, max_text_tokens=24)
DRAWN = Sampling(temperature=1, top_p=0.95, max_text_tokens=24)


def prompts_of(vocabulary, lengths):
    stream = np.random.default_rng(0)
    return [
        [vocabulary.end_id, *stream.integers(0, vocabulary.text_size, n).tolist()] for n in lengths
    ]


def generate(model, prompt, settings, vocabulary):
    """Return what transformers' own greedy decoding writes after one prompt."""
    out = model.generate(
        torch.tensor([prompt]),
        do_sample=False,
        max_new_tokens=settings.max_text_tokens,
        eos_token_id=vocabulary.end_id,
        pad_token_id=vocabulary.inert_id,
    )
    return [token for token in out[0, len(prompt) :].tolist() if token != vocabulary.end_id]


class Rules:
    """A guard whose state is the last id: edits logits, and shows what the model chose."""

    def __init__(self, hook=None, gate=None):
        self.hook, self.gate = hook, gate

    def scan(self, ids):
        return ids[-1]

    def mask(self, logits_BV, states_B):
        return self.hook(logits_BV, torch.from_numpy(states_B)) if self.hook else logits_BV

    def allows(self, states_B, token):
        return np.ones(len(states_B), dtype=bool)

    def commit(self, states_B, ids_B, by_model_B):
        if self.gate:
            self.gate(ids_B[by_model_B])
        return ids_B


def only_text(vocabulary):
    """A hook that leaves text and end of text."""

    def hook(logits_BV, last_ids_B):
        logits_BV[:, vocabulary.end_id + 1 :] = -torch.inf
        return logits_BV

    return hook


def test_greedy_sampling_writes_what_transformers_generate_writes(model, vocabulary):
    prompts = prompts_of(vocabulary, [0, 1, 2, 5, 5, 9, 17, 30])
    ours = sample(model, prompts, GREEDY, seeds=range(8), vocabulary=vocabulary)
    model.eval()
    for prompt, one in zip(prompts, ours, strict=True):
        # Tags are no text: an unguarded sample may go on beyond 24 tokens.
        assert list(one.ids)[:24] == generate(model, prompt, GREEDY, vocabulary)[:24]
        assert one.prompt_ids == tuple(prompt)


def test_a_model_with_sliding_windows_is_sampled_alike(vocabulary):
    config = MistralConfig(
        vocab_size=vocabulary.size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=4, initializer_range=0.2,
        max_position_embeddings=96,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MistralForCausalLM(config).eval()
    prompts = prompts_of(vocabulary, [0, 3, 3, 11])
    ours = sample(model, prompts, GREEDY, seeds=range(4), vocabulary=vocabulary)
    for prompt, one in zip(prompts, ours, strict=True):
        assert list(one.ids)[:24] == generate(model, prompt, GREEDY, vocabulary)[:24]


@pytest.mark.parametrize("top_p", [0.8, 1.0])
def test_a_sample_is_the_same_in_any_batch(model, vocabulary, top_p):
    settings = {"temperature": 1.0, "top_p": top_p, "max_text_tokens": 30}
    prompts, seeds = prompts_of(vocabulary, [*range(12), 0, 0, 0, 40]), range(100, 116)
    asked = {"vocabulary": vocabulary, "guard": Rules(only_text(vocabulary))}
    together = sample(model, prompts, Sampling(**settings), seeds=seeds, **asked)
    threes = sample(model, prompts, Sampling(**settings, batch_rows=3), seeds=seeds, **asked)
    alone = [
        sample(model, [p], Sampling(**settings), seeds=[s], **asked)[0]
        for p, s in zip(prompts, seeds, strict=True)
    ]
    assert together == threes == alone
    assert len({one.ids for one in alone}) == len(alone)


@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_a_model_in_bfloat16_is_sampled_on_float32_logits(model, vocabulary, how):
    types = []

    def hook(logits_BV, last_ids_B):
        types.append(logits_BV.dtype)
        return logits_BV

    if how == "weights":
        model = model.bfloat16()
    prompts = prompts_of(vocabulary, [2, 4])
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        out = sample(model, prompts, GREEDY, seeds=[0, 1], vocabulary=vocabulary, guard=Rules(hook))
    assert set(types) == {torch.float32}
    # The first id, before roundings add up, is that of the model itself.
    logits = model.eval()(torch.tensor([prompts[0]])).logits[0, -1]
    assert out[0].ids[0] == int(logits.argmax())


def test_seeds_reproduce_and_tell_samples_apart(model, vocabulary):
    prompts = prompts_of(vocabulary, [0] * 4)
    first = sample(model, prompts, DRAWN, seeds=[1, 2, 3, 1], vocabulary=vocabulary)
    again = sample(model, prompts, DRAWN, seeds=[1, 2, 3, 1], vocabulary=vocabulary)
    assert first == again
    assert first[0] == first[3]
    assert len({one.ids for one in first}) == 3


def test_sampling_leaves_no_trace(model, vocabulary):
    model.train()
    model.model.layers[0].eval()
    flags = [module.training for module in model.modules()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    sample(model, prompts_of(vocabulary, [3]), DRAWN, seeds=[0], vocabulary=vocabulary)
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), state)
    model(torch.tensor([[1, 2]])).logits.sum().backward()  # no tensor of inference mode is left


def test_flags_come_back_after_an_error_too(model, vocabulary):
    def gate(ids_B):
        raise GuardError("no")

    model.train()
    with pytest.raises(GuardError):
        sample(
            model,
            prompts_of(vocabulary, [3]),
            DRAWN,
            seeds=[0],
            vocabulary=vocabulary,
            guard=Rules(gate=gate),
        )
    assert all(module.training for module in model.modules())


def test_samples_are_drawn_without_dropout(model, vocabulary):
    model.train()
    seen = []
    model.model.layers[0].register_forward_hook(lambda module, *_: seen.append(module.training))
    sample(model, prompts_of(vocabulary, [3]), DRAWN, seeds=[0], vocabulary=vocabulary)
    assert seen
    assert not any(seen)


def test_the_gate_sees_every_choice_of_the_model_and_nothing_of_the_harness(vocabulary):
    tag, newline = vocabulary.open_id("good"), min(vocabulary.newline_ids)
    model = BiasedModel(vocabulary.size, {newline: 4.0, vocabulary.end_id: 3.0})
    seen = []

    def force(last_ids_B):
        return np.where(last_ids_B == newline, tag, -1)

    prompts = [[vocabulary.end_id, tag]] * 9
    out = sample(
        model, prompts, DRAWN, seeds=range(9), vocabulary=vocabulary,
        guard=Rules(only_text(vocabulary), lambda ids: seen.extend(ids.tolist())), force=force,
    )  # fmt: skip
    chosen = [token for one in out for token in one.ids if token != tag]
    chosen += [vocabulary.end_id] * sum(one.finished for one in out)
    assert sorted(seen) == sorted(chosen)
    assert any(one.finished for one in out)
    for one in out:
        for left, right in zip(one.ids, one.ids[1:], strict=False):
            assert (left == newline) == (right == tag)


def test_where_the_model_would_write_any_tag_the_harness_writes_its_own(vocabulary):
    """Half of the mass on the bad tag, the rest on two texts and the end: known frequencies."""
    good, bad = vocabulary.open_id("good"), vocabulary.open_id("bad")
    first, last = 0, vocabulary.text_size - 1
    model = BiasedModel(vocabulary.size, {bad: 20 + np.log(4), first: 20, last: 20 + np.log(3)})
    seen = []
    settings = Sampling(temperature=1, top_p=1, max_text_tokens=60)
    out = sample(
        model, [[vocabulary.end_id, good]] * 60, settings, seeds=range(60), vocabulary=vocabulary,
        guard=Rules(only_text(vocabulary), lambda ids: seen.extend(ids.tolist())),
        force=AtBorders(good),
    )  # fmt: skip
    written = [token for one in out for token in one.ids]
    texts = [token for token in written if token < vocabulary.text_size]
    assert set(written) == {first, last, good}
    assert sorted(seen) == sorted(texts)
    for one in out:
        assert one.ids[0] != good  # the prompt ended with it
        assert (good, good) not in set(zip(one.ids, one.ids[1:], strict=False))
    # Text is drawn as if there were no tags: 3 to 1; and half of the texts have a tag behind them.
    assert abs(texts.count(last) / len(texts) - 0.75) < 5 * (0.75 * 0.25 / len(texts)) ** 0.5
    behind = len(written) - len(texts)
    could = len(texts) - len(out)  # nothing comes behind the last text of a budget
    assert abs(behind / could - 0.5) < 5 * (0.25 / could) ** 0.5
    # The same for what is drawn where no tag stood before: the choice of a tag takes nothing away.
    plain = [b for one in out for a, b in zip(one.ids, one.ids[1:], strict=False)
             if a != good and b != good]  # fmt: skip
    assert abs(plain.count(last) / len(plain) - 0.75) < 5 * (0.75 * 0.25 / len(plain)) ** 0.5


def test_a_model_in_doubt_about_the_mode_is_in_none_about_the_border(vocabulary):
    """Each tag alone has less mass than the text, both together more: greedy writes a tag."""
    good, bad = vocabulary.open_id("good"), vocabulary.open_id("bad")
    model = BiasedModel(
        vocabulary.size, {good: np.log(3) + 30, bad: np.log(3) + 30, 5: np.log(4) + 30}
    )
    (one,) = sample(
        model, [[vocabulary.end_id, 5]], Sampling(temperature=0, max_text_tokens=3), seeds=[0],
        vocabulary=vocabulary, guard=Rules(only_text(vocabulary)), force=AtBorders(good),
    )  # fmt: skip
    assert one.ids == (good, 5, good, 5, good, 5)


def test_the_nucleus_of_text_is_that_behind_the_mask(vocabulary):
    """Tag .6, A .35, B .05: with top_p 0.9 among all B is out, behind the mask it is in."""
    good, bad = vocabulary.open_id("good"), vocabulary.open_id("bad")
    model = BiasedModel(
        vocabulary.size, {bad: np.log(60) + 30, 5: np.log(30) + 30, 6: np.log(10) + 30}
    )
    settings = Sampling(temperature=1, top_p=0.9, max_text_tokens=40)
    out = sample(
        model, [[vocabulary.end_id]] * 20, settings, seeds=range(20), vocabulary=vocabulary,
        guard=Rules(only_text(vocabulary)), force=AtBorders(good),
    )  # fmt: skip
    texts = [token for one in out for token in one.ids if token != good]
    assert abs(texts.count(6) / len(texts) - 0.25) < 5 * (0.25 * 0.75 / len(texts)) ** 0.5


def test_a_border_that_the_model_may_not_mark_is_left_to_the_hook(vocabulary):
    good = vocabulary.open_id("good")
    model = BiasedModel(vocabulary.size, {vocabulary.inert_id: 50.0, 3: 20.0})
    (one,) = sample(
        model, [[vocabulary.end_id]], Sampling(temperature=0, max_text_tokens=2), seeds=[0],
        vocabulary=vocabulary, guard=Rules(only_text(vocabulary)), force=AtBorders(good),
    )  # fmt: skip
    assert one.ids == (3, 3)
    with pytest.raises(ConfigError, match=r"AtBorders\(tag_id=3\): expected a tag's id"):
        sample(model, [[3]], GREEDY, seeds=[0], vocabulary=vocabulary, force=AtBorders(3))


def test_the_budget_counts_text_and_not_tags(vocabulary):
    tag, newline = vocabulary.open_id("good"), min(vocabulary.newline_ids)
    out = sample(
        BiasedModel(vocabulary.size, {newline: 9.0}), [[vocabulary.end_id, tag]], GREEDY,
        seeds=[0], vocabulary=vocabulary,
        force=lambda last: np.where(last == newline, tag, -1),
    )  # fmt: skip
    assert out[0].ids == (newline, tag) * 23 + (newline,)
    assert out[0].stopped == "budget"


def test_where_the_harness_writes_the_model_may_still_end(vocabulary):
    tag, newline = vocabulary.open_id("good"), min(vocabulary.newline_ids)

    class EndsAfterNewline(UniformModel):
        def forward(self, input_ids, **rest):
            out = super().forward(input_ids, **rest)
            after = input_ids[:, -1] == newline
            out.logits[after, -1, vocabulary.end_id] = 50
            out.logits[~after, -1, newline] = 50
            return out

    def write(**settings):
        return sample(
            EndsAfterNewline(vocabulary.size), [[vocabulary.end_id, tag]],
            Sampling(max_text_tokens=5, **settings), seeds=[0], vocabulary=vocabulary,
            guard=Rules(only_text(vocabulary)),
            force=lambda last: np.where(last == newline, tag, -1),
        )[0]  # fmt: skip

    assert write() == ((newline,), (vocabulary.end_id, tag), "end")
    assert write(min_text_tokens=3).ids == (newline, tag, newline, tag, newline)
    assert write(end_before_forced=False).ids == (newline, tag) * 4 + (newline,)


def test_the_end_is_impossible_before_the_least_number_of_text_tokens(vocabulary):
    model = BiasedModel(vocabulary.size, {vocabulary.end_id: 1e4})
    settings = Sampling(temperature=1, top_p=1, min_text_tokens=5, max_text_tokens=9)
    out = sample(
        model, [[vocabulary.end_id]] * 20, settings, seeds=range(20), vocabulary=vocabulary,
        guard=Rules(only_text(vocabulary)),
    )  # fmt: skip
    assert [len(one.ids) for one in out] == [5] * 20
    assert all(one.finished for one in out)


def test_the_hook_edits_last_and_sees_the_last_ids(model, vocabulary):
    lasts = []

    def hook(logits_BV, last_ids_B):
        assert (logits_BV[:, vocabulary.end_id] == -torch.inf).all()  # min_text_tokens came before
        lasts.append(last_ids_B.tolist())
        return torch.nn.functional.one_hot((last_ids_B + 1) % 200, vocabulary.size).float().log()

    settings = Sampling(max_text_tokens=3, min_text_tokens=3)
    out = sample(
        model, [[7], [9, 8]], settings, seeds=[0, 1], vocabulary=vocabulary, guard=Rules(hook)
    )
    assert [one.ids for one in out] == [(8, 9, 10), (9, 10, 11)]
    assert lasts == [[7], [8, 8], [9, 9], [10]]


def test_a_sample_stops_where_the_context_is_full(vocabulary):
    model = UniformModel(vocabulary.size, max_tokens=16)
    out = sample(
        model, [[0], [0] * 15], DRAWN, seeds=[0, 1], vocabulary=vocabulary,
        guard=Rules(only_text(vocabulary)),
    )  # fmt: skip
    assert [len(one.prompt_ids) + len(one.ids) for one in out] == [16, 16]
    assert [one.stopped for one in out] == ["room", "room"]


def test_a_harness_that_always_writes_comes_to_an_end(vocabulary):
    tag = vocabulary.open_id("bad")
    out = sample(
        UniformModel(vocabulary.size, max_tokens=16), [[0]], Sampling(end_before_forced=False),
        seeds=[0], vocabulary=vocabulary, force=lambda last: np.full_like(last, tag),
    )  # fmt: skip
    assert out == [((tag,) * 15, (0,), "room")]


@pytest.mark.parametrize("wrong", [5, 10_000, -2])
def test_a_harness_may_write_tags_only(vocabulary, wrong):
    with pytest.raises(DataError, match=str(wrong)):
        sample(
            UniformModel(vocabulary.size), [[0]], DRAWN, seeds=[0], vocabulary=vocabulary,
            force=lambda last: np.full_like(last, wrong),
        )  # fmt: skip


def test_a_model_that_diverged_is_refused(vocabulary):
    model = BiasedModel(vocabulary.size, {3: float("nan")})
    with pytest.raises(DataError, match="nan"):
        sample(model, [[0]], DRAWN, seeds=[0], vocabulary=vocabulary)


@pytest.mark.parametrize(
    ("prompt", "problem"), [([], "is empty"), ([0] * 16, "has 16 tokens"), ([0, 266], "id 266")]
)
def test_a_prompt_that_cannot_be_read_is_refused(vocabulary, prompt, problem):
    model = UniformModel(vocabulary.size, max_tokens=16)
    with pytest.raises(DataError, match=f"prompt 1.*{problem}"):
        sample(model, [[0], prompt], DRAWN, seeds=[0, 1], vocabulary=vocabulary)


def test_each_prompt_needs_its_seed(vocabulary):
    with pytest.raises(ConfigError, match="2 prompts, 1 seeds"):
        sample(UniformModel(vocabulary.size), [[0], [0]], DRAWN, seeds=[0], vocabulary=vocabulary)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0}, {"temperature": 1e-7}, {"temperature": float("inf")},
        {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.1}, {"max_text_tokens": 0},
        {"min_text_tokens": 200}, {"batch_rows": 0},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_nothing_asked_is_nothing_written(model, vocabulary):
    assert sample(model, [], DRAWN, seeds=[], vocabulary=vocabulary) == []


def test_rows_that_are_done_leave_the_batch(vocabulary):
    shape = LlamaShape(width=16, layers=1, heads=2, max_tokens=64)
    model = make_model(shape, vocabulary.size, seed=0)
    widths = []
    model.model.embed_tokens.register_forward_hook(lambda _, ids, out: widths.append(len(out)))

    def hook(logits_BV, last_ids_B):
        """Ids count down from the prompt's; 0 ends."""
        next_B = torch.where(last_ids_B > 0, last_ids_B - 1, vocabulary.end_id)
        return torch.nn.functional.one_hot(next_B, vocabulary.size).float().log()

    prompts = [[n] for n in (1, 2, 3, 4, 5, 6, 7, 30)]
    out = sample(
        model, prompts, Sampling(), seeds=range(8), vocabulary=vocabulary, guard=Rules(hook)
    )
    assert [len(one.ids) for one in out] == [1, 2, 3, 4, 5, 6, 7, 30]
    assert widths[0] == 8
    assert widths[-1] == 1
    assert sum(widths) < 2 * sum(len(one.ids) + 1 for one in out)
