"""The surgeon: its balls, its gradients, and what it leaves alone."""

import copy
import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from prealign.errors import ConfigError, DataError
from prealign.harden.aims import (
    Away,
    Probe,
    Steer,
    TokenOdds,
    Toward,
    chosen_logp,
    last_states,
    log_odds,
    other_logp,
)
from prealign.harden.ball import Ball
from prealign.harden.curve import Point, half_strength, mean_success, presence, success_curve
from prealign.harden.perturb import RowLayout
from prealign.harden.places import Place
from prealign.harden.surgeon import Surgeon
from prealign.models.create import LlamaShape, make_model
from prealign.posttrain.score import Places, Row, logp, places

SHAPE = LlamaShape(width=16, layers=3, heads=2, max_tokens=32)
ROWS = [Row((5, 6, 7), (8, 9)), Row((4, 3), (2,)), Row((9, 9, 9, 1), (7, 7, 7))]
EXAMPLES = [(row,) for row in ROWS]
PARTS = ["residual", "mlp", "query", "key", "value", "embedding"]


def num(tensor):
    return float(tensor.detach())


def a_model(seed=0):
    return make_model(SHAPE, 24, seed=seed)


def loss_of(model, rows=ROWS):
    logp_BL, _ = logp(model, rows)
    return -logp_BL.sum()


def attacked(model, surgeon, rows=ROWS, salt=0):
    """Attack the loss of rows; return the perturbation and the loss under it."""
    layout = RowLayout([(row,) for row in rows], surgeon.positions)
    found = surgeon(model, lambda: loss_of(model, rows), layout, salt=salt)
    with found.applied(), torch.no_grad():
        return found, num(loss_of(model, rows))


def test_the_radius_is_strength_times_the_median_size_of_a_token_worked_by_hand():
    clean = torch.zeros(1, 4, 9)
    clean[0, 0], clean[0, 1], clean[0, 2], clean[0, 3] = 1000.0, 2.0, -3.0, 50.0
    mask = torch.tensor([[True, True, True, False]])
    # Tokens' root mean squares are 1000, 2 and 3: the median is 3, not what the first would make.
    assert num(Ball(strength=0.5, over="token").radius(clean, mask)) == pytest.approx(0.5 * 3 * 3)
    sequence = num(Ball(strength=0.5).radius(clean, mask))
    assert sequence == pytest.approx(0.5 * 3 * math.sqrt(3 * 9))
    assert num(Ball(strength=0.5).radius(clean, torch.zeros_like(mask))) == 0.0


def test_a_projection_shortens_what_is_outside_and_leaves_what_is_inside():
    delta = torch.tensor([[[3.0, 4.0], [0.3, 0.4]]])
    radius = torch.ones(1, 1, 1)
    by_token = Ball(over="token").project(delta, radius)
    assert torch.allclose(by_token, torch.tensor([[[0.6, 0.8], [0.3, 0.4]]]))
    whole = Ball(over="sequence").project(delta, radius)
    assert num(whole.norm()) == pytest.approx(1.0)
    assert torch.allclose(whole / whole.norm(), delta / delta.norm())


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("over", ["sequence", "token"])
def test_an_attack_raises_the_loss_more_than_noise_within_the_ball_at_every_place(part, over):
    model = a_model()
    surgeon = Surgeon(places=(Place(part=part, depth=0.4),), ball=Ball(strength=0.5, over=over))
    clean = num(loss_of(model))
    found, under_attack = attacked(model, surgeon)
    _, under_noise = attacked(model, surgeon.noise())
    assert under_attack > clean
    assert under_attack > under_noise
    (norms,) = found.norms()
    assert num(norms.max()) <= 1 + 1e-5
    assert found.leaves[0].requires_grad is False


def test_a_module_by_its_path_is_the_place_that_it_is():
    model = a_model()
    by_path = Place(part="module", path="model.layers.1")
    assert by_path.find(model) is Place(depth=0.4).find(model)
    for broken in ({"part": "module"}, {"path": "lm_head"}, {"depth": 1.5}, {"part": "brain"}):
        with pytest.raises(ConfigError):
            Place(**broken)
    with pytest.raises(ConfigError, match="nowhere"):
        Place(part="module", path="nowhere").find(model)


def test_another_architecture_is_attacked_too_and_says_what_it_lacks():
    config = GPT2Config(vocab_size=24, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).eval()
    for place in (Place(), Place(part="mlp"), Place(part="embedding"),
                  Place(part="module", path="transformer.h.0.attn.c_attn")):  # fmt: skip
        _, under = attacked(model, Surgeon(places=(place,)))
        assert under > num(loss_of(model))
    with pytest.raises(ConfigError, match="part='module'"):
        Place(part="query").find(model)


def test_one_step_from_zero_goes_along_the_gradient_to_the_balls_surface():
    model = a_model()
    place = Place(depth=0.4)
    surgeon = Surgeon(places=(place,), ball=Ball(strength=0.2), steps=1, random_start=False)
    found, _ = attacked(model, surgeon, ROWS[:1])
    states: list[torch.Tensor] = []
    handle = place.find(model).register_forward_hook(lambda _, __, out: states.append(out))
    loss = loss_of(model, ROWS[:1])
    handle.remove()
    (gradient,) = torch.autograd.grad(loss, states)
    rms = states[0].detach().square().mean(-1).sqrt().median()
    expected = gradient / gradient.norm() * (0.2 * rms * math.sqrt(gradient.numel()))
    assert torch.allclose(found.leaves[0], expected, atol=1e-6)


def test_the_model_is_left_as_it_was():
    model = a_model().train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    model.lm_head.weight.requires_grad_(False)
    needs = [parameter.requires_grad for parameter in model.parameters()]
    before = copy.deepcopy(model.state_dict())
    random = torch.random.get_rng_state()
    attacked(model, Surgeon())
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == needs
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(random, torch.random.get_rng_state())
    assert not any(module._forward_hooks for module in model.modules())


def test_dropout_is_off_during_the_attack_and_parameters_are_not_differentiated():
    model = a_model().train()
    seen = []

    def aim():
        seen.append((model.training, any(p.requires_grad for p in model.parameters())))
        return loss_of(model)

    Surgeon(steps=2)(model, aim, RowLayout(EXAMPLES, "all"))
    assert seen == [(False, False)] * 2


@pytest.mark.parametrize("kind", ["attack", "noise"])
@pytest.mark.parametrize("over", ["sequence", "token"])
def test_what_is_found_for_a_row_does_not_depend_on_its_neighbours_or_padding(kind, over):
    model = a_model()
    surgeon = Surgeon(kind=kind, ball=Ball(over=over, clamp=True), steps=3)
    together, _ = attacked(model, surgeon)
    for number, row in enumerate(ROWS):
        alone, _ = attacked(model, surgeon, [row])
        size = len(row.prompt) + len(row.completion)
        assert torch.allclose(together.leaves[0][number, :size], alone.leaves[0][0], atol=1e-5)
        assert not together.leaves[0][number, size:].any()


def test_the_same_seed_and_salt_give_the_same_attack_and_others_another():
    model = a_model()
    first, again = (attacked(model, Surgeon(), salt=3)[0].leaves[0] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, attacked(model, Surgeon(), salt=4)[0].leaves[0])
    assert not torch.equal(first, attacked(model, Surgeon(seed=1), salt=3)[0].leaves[0])


@pytest.mark.parametrize("over", ["sequence", "token"])
def test_noise_goes_the_whole_radius_and_costs_no_pass(over):
    model = a_model()
    passes = []
    surgeon = Surgeon(kind="noise", ball=Ball(strength=0.7, over=over))
    found = surgeon(model, lambda: passes.append(1), RowLayout(EXAMPLES, "all"))
    with found.applied(), torch.no_grad():
        loss_of(model)
    assert passes == []
    (norms,) = found.norms()
    real = norms[norms > 0]
    assert torch.allclose(real, torch.ones_like(real), atol=1e-5)


@pytest.mark.parametrize(
    ("positions", "attacked_tokens"), [("prompt", [3, 2, 4]), ("completion", [2, 1, 3])]
)
def test_only_the_chosen_positions_are_attacked(positions, attacked_tokens):
    model = a_model()
    surgeon = Surgeon(positions=positions, kind="noise")
    found, _ = attacked(model, surgeon)
    moved = found.leaves[0].abs().sum(-1) > 0
    assert moved.sum(1).tolist() == attacked_tokens
    for row, own in zip(ROWS, moved, strict=True):
        first = 0 if positions == "prompt" else len(row.prompt)
        assert bool(own[first])


def test_strength_zero_changes_nothing_at_all():
    model = a_model()
    clean = num(loss_of(model))
    for kind in ("attack", "noise"):
        surgeon = Surgeon(kind=kind, ball=Ball(strength=0.0))
        _, under = attacked(model, surgeon)
        assert under == clean


def test_a_clamp_keeps_what_is_attacked_within_the_clean_range():
    model = a_model()
    place = Place(depth=0.4)
    seen: list[torch.Tensor] = []
    handle = place.find(model).register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    loss_of(model, ROWS[:1])
    handle.remove()
    low, high = num(seen[0].min()), num(seen[0].max())
    for clamp in (True, False):
        surgeon = Surgeon(places=(place,), ball=Ball(strength=3.0, clamp=clamp), kind="noise")
        found, _ = attacked(model, surgeon, ROWS[:1])
        moved = seen[0] + found.leaves[0]
        inside = num(moved.min()) >= low - 1e-5 and num(moved.max()) <= high + 1e-5
        assert inside is clamp


def test_rows_of_an_example_share_what_is_added_to_their_prompt():
    model = a_model()
    good, bad = Row((5, 6, 7), (8, 9)), Row((5, 6, 7), (1, 2, 3))
    layout = RowLayout([(good, bad)], "prompt")
    examples = [(good, bad)]
    surgeon = Surgeon(ball=Ball(over="token", strength=1.0), positions="prompt", steps=12)
    aim = Steer()
    before = num(aim(model, examples))
    found = surgeon(model, lambda: aim(model, examples), layout)
    assert found.leaves[0].shape == (1, 6, 16)
    assert not found.leaves[0][0, 3:].any()
    with found.applied(), torch.no_grad():
        assert num(aim(model, examples)) > before
        assert num(Toward(row=-1)(model, examples)) > num(-loss_of(a_model(), [bad]))


def test_what_is_shared_is_added_in_each_row_where_that_row_is_attacked():
    model = a_model()
    rows = [Row((5, 6, 7), (8, 9)), Row((4, 3), (2, 1, 1))]
    layout = RowLayout([tuple(rows)], "prompt")
    found = Surgeon(kind="noise")(model, lambda: loss_of(model, rows), layout)
    seen: list[torch.Tensor] = []
    place = Place().find(model)
    with found.applied(), torch.no_grad():
        handle = place.register_forward_hook(lambda _, __, out: seen.append(out))
        loss_of(model, rows)
        handle.remove()
    with torch.no_grad():
        handle = place.register_forward_hook(lambda _, __, out: seen.append(out))
        loss_of(model, rows)
        handle.remove()
    moved = (seen[0] - seen[1]).abs().sum(-1) > 1e-6
    assert moved.tolist() == [[True] * 3 + [False] * 2, [True] * 2 + [False] * 3]


def test_rows_that_the_layout_does_not_know_are_refused():
    model = a_model()
    surgeon = Surgeon()
    with pytest.raises(DataError, match="none of the rows"):
        surgeon(model, lambda: loss_of(model, ROWS[1:2]), RowLayout(EXAMPLES[:1], "all"))
    with pytest.raises(ConfigError, match="does not depend"):
        surgeon(model, lambda: torch.zeros(()), RowLayout(EXAMPLES, "all"))


def test_log_of_one_minus_p_is_exact_where_p_is_almost_one():
    logits = torch.tensor([[40.0, 0.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    found = Places(logits, torch.tensor([0, 2]), torch.ones(1, 2, dtype=torch.bool))
    values = other_logp(found)
    assert values.tolist() == pytest.approx([math.log(2) - 40.0, math.log(2 / 3)], abs=1e-5)
    values.sum().backward()
    assert num(logits.grad[0, 0]) == pytest.approx(-1.0, abs=1e-5)
    assert chosen_logp(found)[1].item() == pytest.approx(math.log(1 / 3))


def test_away_ignores_tokens_that_are_unlikely_already():
    model = a_model()
    with torch.no_grad():
        model.lm_head.weight.mul_(400)
    logp_N = chosen_logp(places(model, ROWS))
    assert bool((logp_N < -5).any())
    own = other_logp(places(model, ROWS))
    assert num(Away()(model, EXAMPLES)) == pytest.approx(num(own[logp_N >= -5].sum()), abs=1e-5)


def test_the_odds_of_a_banned_tag_can_be_raised():
    model = a_model()
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    p = num(torch.softmax(logits, -1)[0, [0, 2]].sum())
    assert num(log_odds(logits, (0, 2))) == pytest.approx(math.log(p / (1 - p)))
    aim = TokenOdds(tokens=(23,))
    layout = RowLayout(EXAMPLES, "prompt")
    surgeon = Surgeon(positions="prompt", ball=Ball(strength=1.0))
    found = surgeon(model, lambda: aim(model, EXAMPLES), layout)
    with found.applied(), torch.no_grad():
        raised = num(aim(model, EXAMPLES))
    assert raised > num(aim(model, EXAMPLES)) + 1
    with pytest.raises(ConfigError):
        log_odds(logits, ())


def test_what_a_probe_reads_can_be_raised_and_a_class_made_likelier():
    model = a_model()
    weights = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    one = Probe(weights=(tuple(weights[0].tolist()),), depth=1.0)
    seeds = Probe(weights=tuple(tuple(w.tolist()) for w in weights), biases=(0.1, 0.2), wanted=1)
    states = last_states(model, ROWS, 1.0)
    assert num(one(model, EXAMPLES)) == pytest.approx(num((states @ weights[0]).sum()), rel=1e-4)
    scores = states @ weights.T + torch.tensor([0.1, 0.2])
    expected = num(scores.log_softmax(-1)[:, 1].sum())
    assert num(seeds(model, EXAMPLES)) == pytest.approx(expected, rel=1e-4)
    for aim in (one, seeds):
        layout = RowLayout(EXAMPLES, "all")
        found = Surgeon(places=(Place(depth=0.0),))(model, lambda a=aim: a(model, EXAMPLES), layout)
        with found.applied(), torch.no_grad():
            assert num(aim(model, EXAMPLES)) > found.values[0]
    with pytest.raises(ConfigError, match="width"):
        Probe(weights=((1.0,),))(model, EXAMPLES)


def test_a_curve_rises_with_strength_and_its_half_is_interpolated():
    model = a_model()
    surgeon = Surgeon(places=(Place(depth=0.9),), positions="prompt", ball=Ball(over="token"),
                      steps=10)  # fmt: skip
    wanted = [(Row(row.prompt, (11,)),) for row in ROWS]
    points = success_curve(model, surgeon, wanted, (0.0, 1.0, 30.0))
    assert points[0].success.value == 0.0
    assert points[-1].success.value == 1.0
    est = points[0].success
    line = [Point(1.0, est._replace(value=0.2)), Point(3.0, est._replace(value=1.0)),
            Point(0.0, est)]  # fmt: skip
    assert half_strength(line) == pytest.approx(1.0 + 2.0 * 0.3 / 0.8)
    assert half_strength(line[:1]) is None
    assert mean_success(line) == pytest.approx(0.6)


def test_a_probe_finds_what_is_there_and_nothing_in_what_is_not():
    model = a_model()
    draw = torch.Generator().manual_seed(1)

    def prompts(last, count=40):
        ids = torch.randint(0, 20, (count, 4), generator=draw).tolist()
        return [Row((*own, last), (1,)) for own in ids]

    assert presence(model, prompts(21), prompts(22), 0.5).value > 0.95
    same = presence(model, prompts(21, 100), prompts(21, 100), 0.5)
    assert same.low < 0.5 < same.high
