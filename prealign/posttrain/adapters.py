"""The weights that are trained, and the frozen reference beside them.

Either all weights of a model, the reference being a copy; or low-rank adapters (LoRA, Hu et al.
2021, https://arxiv.org/abs/2106.09685) in it through peft, the reference being the model without
them, which costs no memory.
"""

import contextlib
import copy
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from prealign.errors import ConfigError, MissingDependency
from prealign.models.sample import evaluating

try:
    import peft
except ImportError:
    peft = None

FINGERPRINTED = 4096
"""Numbers of each tensor that tell one model from another."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters."""

    rank: int = 16
    alpha: float = 32.0
    """The product of the two factors is scaled by alpha / rank."""
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    """Names of the layers that get one; none: all linear layers but the output layer."""
    seed: int = 0
    """Of the first factor; the second starts at 0, so that nothing changes at first."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0 or not 0 <= self.dropout < 1:
            raise ConfigError(
                f"lora: rank={self.rank}, alpha={self.alpha}, dropout={self.dropout}: expected 1 "
                "or more, above 0, and a share below 1"
            )


class Snapshot(NamedTuple):
    """Weights and the optimizer's state at some moment."""

    weights: list[Tensor]
    moments: dict[str, Any]


class Weights:
    """What is trained of a model, and the model as it was.

    Args:
        model: Changed in place: it gets the adapters, or is trained whole.
        lora: None: all weights.

    Raises:
        MissingDependency: Adapters are asked for, and peft is not installed.
        ConfigError: The model has no layers of the given names.
    """

    def __init__(self, model: PreTrainedModel, lora: Lora | None = None) -> None:
        self.model = model
        self.lora = lora
        self._adapted: Any = None
        self._frozen: PreTrainedModel | None = None
        if lora is None:
            frozen: Any = copy.deepcopy(model)
            self._frozen = frozen.eval().requires_grad_(False)
        else:
            self._adapted = _with_adapters(model, lora)
        start = [parameter for name, parameter in model.named_parameters() if "lora_" not in name]
        self._start_norm = _norm(start)
        self.fingerprint = fingerprint_of(start)
        """16 hex digits of the weights before training: those of the reference."""

    @property
    def trained(self) -> list[torch.nn.Parameter]:
        """The parameters that are trained."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @contextlib.contextmanager
    def reference(self) -> Iterator[PreTrainedModel]:
        """Give the frozen reference, without gradients and in evaluation mode."""
        with torch.no_grad():
            if self._frozen is not None:
                yield self._frozen
            else:
                with evaluating(self.model), self._adapted.disable_adapter():
                    yield self.model

    @contextlib.contextmanager
    def policy(self) -> Iterator[PreTrainedModel]:
        """Give the model as it is now, without gradients and in evaluation mode."""
        with torch.no_grad(), evaluating(self.model):
            yield self.model

    def snapshot(self, optimizer: Optimizer) -> Snapshot:
        """Return what `restore` puts back."""
        weights = [parameter.detach().clone() for parameter in self.trained]
        return Snapshot(weights, copy.deepcopy(optimizer.state_dict()))

    def restore(self, snapshot: Snapshot, optimizer: Optimizer) -> None:
        """Put weights and the optimizer's state back, bit for bit."""
        with torch.no_grad():
            for parameter, value in zip(self.trained, snapshot.weights, strict=True):
                parameter.copy_(value)
        # The optimizer takes the tensors it is given for its own.
        optimizer.load_state_dict(copy.deepcopy(snapshot.moments))

    @torch.no_grad()
    def distance(self) -> float:
        """Return how far the weights are from the start, as a share of the start's norm."""
        if self._frozen is not None:
            pairs = zip(self.model.parameters(), self._frozen.parameters(), strict=True)
            moved = _norm([a - b for a, b in pairs])
        else:
            layers: list[Any] = [m for m in self.model.modules() if hasattr(m, "get_delta_weight")]
            moved = _norm([layer.get_delta_weight("default") for layer in layers])
        return moved / self._start_norm

    def merged(self) -> PreTrainedModel:
        """Return the model with its adapters folded in: to be saved like any other.

        There is nothing left to train then.
        """
        if self._adapted is None:
            return self.model
        whole: PreTrainedModel = self._adapted.merge_and_unload()
        return whole


def _with_adapters(model: PreTrainedModel, lora: Lora) -> Any:
    if peft is None:
        raise MissingDependency("low-rank adapters need peft: pip install 'prealign[lora]'")
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets) or "all-linear",
        task_type="CAUSAL_LM",
    )
    device = next(model.parameters()).device
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        torch.manual_seed(lora.seed)
        try:
            # peft asks transformers by names of before its release.
            warnings.filterwarnings("ignore", category=FutureWarning)
            return peft.get_peft_model(model, config)
        except ValueError as error:
            raise ConfigError(f"lora.targets={lora.targets}: {error}") from error


def fingerprint_of(tensors: Sequence[Tensor]) -> str:
    """Return 16 hex digits of the first numbers of each tensor: training changes them all."""
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        some = tensor.detach().flatten()[:FINGERPRINTED].cpu().contiguous()
        digest.update(some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _norm(tensors: Sequence[Tensor]) -> float:
    squares = [tensor.detach().double().square().sum() for tensor in tensors]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0
