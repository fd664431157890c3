import json

import pytest
import torch

from prealign.errors import TrainError
from prealign.train.checkpoint import (
    State,
    checkpoints,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from prealign.train.optimizer import make_optimizer
from prealign.train.settings import TrainSettings
from tests.train.fakes import SHAPE, VOCABULARY, make_model, small_model

IDENTITY = {"train": {"lr": 0.1, "betas": [0.9, 0.95]}, "data": {"num_rows": 3}}


def stepped(seed, steps=2):
    """Return a model and its optimizer after some steps."""
    model = small_model(seed)
    optimizer = make_optimizer(model, TrainSettings(lr=0.1))
    random = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=random)
        optimizer.step()
    return model, optimizer


def save(folder, step, seed=0, identity=IDENTITY):
    model, optimizer = stepped(seed)
    save_checkpoint(folder, model, optimizer, State(step=step), identity, writes=True)
    return model, optimizer


def test_what_is_saved_is_loaded_bit_for_bit_and_training_goes_on_alike(tmp_path):
    model, optimizer = save(tmp_path, 7)
    drawn = torch.rand(3)
    other, other_optimizer = stepped(1)
    state = load_checkpoint(tmp_path, other, other_optimizer, IDENTITY)
    assert state == State(step=7)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
        one.grad = two.grad = torch.ones_like(one)
    optimizer.step()
    other_optimizer.step()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    load_checkpoint(tmp_path, other, other_optimizer, IDENTITY)
    assert torch.equal(torch.rand(3), drawn)


def test_an_optimizer_that_has_not_stepped_yet_takes_the_saved_state(tmp_path):
    model, optimizer = save(tmp_path, 7)
    other = small_model(5)
    fresh = make_optimizer(other, TrainSettings(lr=0.1))
    load_checkpoint(tmp_path, other, fresh, IDENTITY)
    slots = [list(o.state[p].values()) for o, m in ((optimizer, model), (fresh, other))
             for p in m.parameters()]  # fmt: skip
    half = len(slots) // 2
    for one, two in zip(slots[:half], slots[half:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_nothing_is_pickled_and_tied_weights_are_there_once(tmp_path):
    save(tmp_path, 1)
    names = {file.name for file in checkpoints(tmp_path)[0].iterdir()}
    assert names == {"tensors.safetensors", "state.json"}
    header = (checkpoints(tmp_path)[0] / "tensors.safetensors").read_bytes()
    size = int.from_bytes(header[:8], "little")
    stored = json.loads(header[8 : 8 + size])
    tables = [n for n, t in stored.items() if "model/" in n and t.get("shape") == [VOCABULARY, 16]]
    assert len(tables) == 1


def test_the_newest_two_are_kept_and_torn_ones_are_swept_away(tmp_path):
    torn = tmp_path / "step-00000002.part"
    torn.mkdir()
    (torn / "tensors.safetensors").write_bytes(b"half")
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_a_torn_checkpoint_is_never_loaded(tmp_path):
    model, _ = save(tmp_path, 1)
    torn = tmp_path / "step-00000002.part"
    torn.mkdir()
    other = small_model(9)
    assert load_weights(tmp_path, other) == 1
    assert torch.equal(other.lm_head.weight, model.lm_head.weight)


def test_no_checkpoint_is_no_error_on_the_first_start_but_is_when_weights_are_wanted(tmp_path):
    model, optimizer = stepped(0)
    assert load_checkpoint(tmp_path / "none", model, optimizer, IDENTITY) is None
    with pytest.raises(TrainError, match="holds no checkpoint"):
        load_weights(tmp_path / "none", model)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"train": {"lr": 0.2, "betas": [0.9, 0.95]}}, "train.lr=0.1, now it is 0.2"),
        ({"data": {"num_rows": 4}}, "data.num_rows=3, now it is 4"),
    ],
)
def test_other_settings_or_data_are_refused_by_name(tmp_path, changed, said):
    model, optimizer = save(tmp_path, 1)
    with pytest.raises(TrainError) as error:
        load_checkpoint(tmp_path, model, optimizer, IDENTITY | changed)
    assert said in str(error.value)


def test_a_damaged_checkpoint_is_named(tmp_path):
    model, optimizer = save(tmp_path, 1)
    (tmp_path / "step-00000001" / "tensors.safetensors").write_bytes(b"damaged")
    with pytest.raises(TrainError, match="is damaged"):
        load_checkpoint(tmp_path, model, optimizer, IDENTITY)


def test_weights_of_another_shape_are_refused(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(TrainError, match="the model has"):
        load_weights(tmp_path, make_model(SHAPE, VOCABULARY + 1, seed=0))
