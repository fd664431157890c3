"""Reading and editing the residual stream and the MLP units of any transformers model.

Shape letters:  L = tokens,  D = width of the residual stream,  U = MLP units of a layer.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from prealign.errors import ConfigError
from prealign.tokens.vocabulary import Vocabulary

IN_NAMES = ("gate_proj", "up_proj", "c_fc", "dense_h_to_4h", "fc1", "wi")
OUT_NAMES = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "wo")
Edit = Callable[[Tensor], Tensor]
"""From the output of a layer, [1, L, D], to another one of that shape."""


class Prompts(NamedTuple):
    """One question with and without a seed in front, as ids that end on the same tokens."""

    seeded: list[int]
    bare: list[int]
    shared: int
    """How many ids at the end both have: the question, and the tags around it."""


class Mlp(NamedTuple):
    """The MLP of a layer: matrices whose rows (in) and columns (out) belong to its units."""

    name: str
    ins: tuple[nn.Module, ...]
    out: nn.Module


def prompts_of(
    vocabulary: Vocabulary, text: str, seed_text: str, *, reads: str | None = None,
    speaks: str | None = None,
) -> Prompts:  # fmt: skip
    """Return the ids of a question with and without a seed.

    Seed and question are encoded apart, so that the question has the same tokens in both.

    Args:
        vocabulary: The model's.
        text: The question.
        seed_text: What stands in front of it.
        reads: The mode that both stand in; None: in none.
        speaks: The mode that is opened for the answer; None: none.
    """
    scheme = vocabulary.scheme
    path = scheme.path(reads) if reads else ()
    front = [vocabulary.end_id, *(vocabulary.open_id(mode) for mode in path)]
    closing = [scheme.mode(mode).close for mode in reversed(path)]
    back = vocabulary.encode_text(text) + [vocabulary.tag_ids[tag] for tag in closing if tag]
    back += [vocabulary.open_id(mode) for mode in (scheme.path(speaks) if speaks else ())]
    seed = vocabulary.encode_text(seed_text)
    return Prompts([*front, *seed, *back], [*front, *back], len(back))


def layers_of(model: Any) -> list[nn.Module]:
    """Return the layers of a model, in order.

    Raises:
        ConfigError: It has no list of as many modules as its configuration has layers.
    """
    number = int(model.config.num_hidden_layers)
    for _, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == number:
            return list(module)
    raise ConfigError(
        f"{type(model).__name__}: has no list of its {number} layers; use a causal model of "
        "transformers"
    )


def layer_at(model: Any, depth: float) -> int:
    """Return the index of the layer at a share of the depth: 0 is the first, 1 the last.

    Raises:
        ConfigError: The share is not in [0, 1].
    """
    if not 0 <= depth <= 1:
        raise ConfigError(f"depth={depth}: expected a share of the layers in [0, 1]")
    number = len(layers_of(model))
    return min(number - 1, int(depth * number))


def read_layers(model: Any, ids: Sequence[int], layers: Sequence[int]) -> dict[int, Tensor]:
    """Return what some layers write when the model reads ids, each [L, D], float32."""
    found: dict[int, Tensor] = {}

    def reader(index: int) -> Edit:
        def read(out_1LD: Tensor) -> Tensor:
            found[index] = out_1LD[0].detach().float().clone()
            return out_1LD

        return read

    with edited(model, {index: reader(index) for index in layers}), torch.no_grad():
        model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False)
    return found


@contextlib.contextmanager
def edited(model: Any, edits: Mapping[int, Edit]) -> Iterator[None]:
    """Put an edit behind each of some layers while the block runs."""
    layers = layers_of(model)

    def hook_of(edit: Edit) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(_: nn.Module, __: Any, out: Any) -> Any:
            if isinstance(out, tuple):
                return (edit(out[0]), *out[1:])
            return edit(out)

        return hook

    handles = [layers[i].register_forward_hook(hook_of(edit)) for i, edit in edits.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def mlps_of(model: Any) -> list[Mlp]:
    """Return the MLP of each layer.

    Raises:
        ConfigError: A layer has none with matrices of known names.
    """
    found = []
    for number, layer in enumerate(layers_of(model)):
        ins: list[nn.Module] = []
        outs: list[nn.Module] = []
        for path, module in layer.named_modules():
            parent, _, name = path.rpartition(".")
            if "attn" in parent or "attention" in parent or not hasattr(module, "weight"):
                continue
            ins += [module] if name in IN_NAMES else []
            outs += [module] if name in OUT_NAMES else []
        if not ins or len(outs) != 1:
            raise ConfigError(
                f"layer {number}: has no MLP with matrices named {', '.join(IN_NAMES)} and one of "
                f"{', '.join(OUT_NAMES)}"
            )
        found.append(Mlp(f"layer {number}", tuple(ins), outs[0]))
    return found


def read_units(model: Any, ids: Sequence[int]) -> list[Tensor]:
    """Return what the MLP units of each layer are when the model reads ids, each [L, U]."""
    found: list[Tensor] = []

    def hook(_: nn.Module, args: Any) -> None:
        found.append(args[0][0].detach().float().clone())

    handles = [mlp.out.register_forward_pre_hook(hook) for mlp in mlps_of(model)]
    try:
        with torch.no_grad():
            model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return found


def unit_gradients(model: Any, ids: Sequence[int], answer: Sequence[int]) -> list[Tensor]:
    """Return the squared norm of the gradient of log p(answer) in the weights of each unit.

    A unit's weights are its rows of the matrices into the MLP (and its biases there) and its column
    of the one out of it. The gradients that the model had are left as they were.

    Args:
        model: A causal LM of transformers.
        ids: What stands before the answer.
        answer: Its ids, one at least.

    Returns:
        One tensor per layer, [U].
    """
    mlps = mlps_of(model)
    weights = [w for mlp in mlps for module in (*mlp.ins, mlp.out) for w in module.parameters()]
    ids_1L = torch.tensor([[*ids, *answer]], device=model.device)
    with torch.enable_grad():
        logits_LV = model(input_ids=ids_1L[:, :-1], use_cache=False).logits[0].float()
        own_LV = logits_LV[-len(answer) :].log_softmax(-1)
        targets = ids_1L[0, -len(answer) :, None]
        total = own_LV.gather(-1, targets).sum()
        grads = torch.autograd.grad(total, weights, allow_unused=True)
    by_weight = {id(weight): grad for weight, grad in zip(weights, grads, strict=True)}
    found = []
    for mlp in mlps:
        sums = sum(_squares(module, by_weight, rows=True) for module in mlp.ins)
        found.append(torch.as_tensor(sums + _squares(mlp.out, by_weight, rows=False)))
    return found


def _squares(module: nn.Module, grads: Mapping[int, Tensor | None], *, rows: bool) -> Tensor:
    """Return the squared gradient of a matrix by the units on one of its sides, [U]."""
    weight, bias = module.weight, getattr(module, "bias", None)
    assert isinstance(weight, Tensor)
    grad = grads.get(id(weight))
    square = torch.zeros_like(weight) if grad is None else grad.float() ** 2
    if type(module).__name__ == "Conv1D":  # GPT-2 keeps its matrices the other way round
        square = square.T
    if not rows:
        return square.sum(dim=0)
    found = square.sum(dim=1)
    own = grads.get(id(bias)) if isinstance(bias, Tensor) else None
    return found if own is None else found + own.float() ** 2
