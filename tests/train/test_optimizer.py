import pytest
import torch

from prealign.models.resize import vocabulary_weights
from prealign.train.optimizer import (
    gradients,
    last_rows_faster,
    make_optimizer,
    norm_of,
    scale_and_clip,
)
from prealign.train.settings import TrainSettings
from tests.train.fakes import small_model


def test_matrices_decay_and_norms_and_embeddings_do_not():
    model = small_model()
    decays = {
        id(parameter): group["weight_decay"]
        for group in make_optimizer(model, TrainSettings(weight_decay=0.3)).param_groups
        for parameter in group["params"]
    }
    found = {name: decays[id(parameter)] for name, parameter in model.named_parameters()}
    assert {name for name, decay in found.items() if decay == 0.0} == {
        "model.embed_tokens.weight",
        "model.norm.weight",
        *(f"model.layers.{i}.{n}.weight" for i in range(2)
          for n in ("input_layernorm", "post_attention_layernorm")),
    }  # fmt: skip
    assert set(found.values()) == {0.0, 0.3}
    assert len(decays) == len(list(model.parameters()))


@pytest.mark.parametrize("clip_norm", [0.01, 1e6])
def test_scaling_and_clipping_is_torchs_clipping_of_scaled_gradients(clip_norm):
    models = [small_model(), small_model()]
    for model in models:
        random = torch.Generator().manual_seed(3)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=random)
    for parameter in models[0].parameters():
        parameter.grad.mul_(0.25)
    norm = torch.nn.utils.clip_grad_norm_(models[0].parameters(), clip_norm)
    grads = gradients(make_optimizer(models[1], TrainSettings()))
    own_norm = norm_of(grads).item()
    scale_and_clip(grads, 0.25, own_norm, clip_norm)
    assert own_norm * 0.25 == pytest.approx(norm.item(), rel=1e-5)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-7)


def test_a_model_without_gradients_has_a_norm_of_zero():
    grads = gradients(make_optimizer(small_model(), TrainSettings()))
    assert grads == []
    assert norm_of(grads).item() == 0.0


def test_new_rows_go_as_far_as_with_a_learning_rate_of_their_own():
    before, usual, faster = small_model(), small_model(), small_model()
    for model, rate in ((usual, 1.0), (faster, 7.0)):
        optimizer = make_optimizer(model, TrainSettings(lr=1e-3))
        random = torch.Generator().manual_seed(3)
        for _ in range(3):
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=random)
            with last_rows_faster(model, 2, rate):
                optimizer.step()
    moved = [
        [
            now - old
            for now, old in zip(vocabulary_weights(model), vocabulary_weights(before), strict=True)
        ]
        for model in (usual, faster)
    ]
    for slow, fast in zip(*moved, strict=True):
        assert torch.equal(slow[:-2], fast[:-2])
        torch.testing.assert_close(fast[-2:], 7 * slow[-2:], rtol=1e-4, atol=1e-6)
