"""Where activations are attacked: the output of any module of a transformers model."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn

from prealign.errors import ConfigError
from prealign.evals.inside import layer_at, layers_of, mlps_of

Part = Literal["residual", "mlp", "query", "key", "value", "embedding", "module"]
PARTS: tuple[Part, ...] = get_args(Part)
NAMES = {
    "query": ("q_proj", "query", "wq"),
    "key": ("k_proj", "key", "wk"),
    "value": ("v_proj", "value", "wv"),
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """One place of a model.

    - residual: the stream behind a layer.
    - mlp: what the layer's MLP adds to the stream.
    - query, key, value: what the layer's attention makes of the stream, all heads together.
    - embedding: the embeddings of the tokens. An attack there is the usual control: it is the
      nearest thing to an attack on the input.
    - module: the output of a module by its path in the model.
    """

    part: Part = "residual"
    depth: float = 0.5
    """Which layer, as a share of the depth: 0 is the first, 1 the last. Not for the embedding, and
    not for a module."""
    path: str = ""
    """For a module, such as `model.layers.3.self_attn.o_proj`."""

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ConfigError(f"part={self.part!r}: expected one of {', '.join(PARTS)}")
        if not 0 <= self.depth <= 1:
            raise ConfigError(f"depth={self.depth}: expected a share of the layers in [0, 1]")
        if (self.part == "module") != bool(self.path):
            raise ConfigError(
                f"part={self.part!r} with path={self.path!r}: a module needs its path, nothing "
                "else has one"
            )

    def __str__(self) -> str:
        """Return it in words."""
        if self.part in ("embedding", "module"):
            return self.path or self.part
        return f"{self.part} at {self.depth:g}"

    def find(self, model: Any) -> nn.Module:
        """Return the module whose output is meant.

        Raises:
            ConfigError: The model has no such module.
        """
        if self.part == "embedding":
            embedding: nn.Module = model.get_input_embeddings()
            return embedding
        if self.part == "module":
            try:
                found: nn.Module = model.get_submodule(self.path)
            except AttributeError as error:
                raise ConfigError(f"path={self.path!r}: {error}") from error
            return found
        index = layer_at(model, self.depth)
        if self.part == "mlp":
            added: nn.Module = mlps_of(model)[index].out
            return added
        layer = layers_of(model)[index]
        if self.part == "residual":
            return layer
        named: list[nn.Module] = [m for path, m in layer.named_modules()
                 if path.rpartition(".")[2] in NAMES[self.part]]  # fmt: skip
        if len(named) != 1:
            raise ConfigError(
                f"layer {index} has {len(named)} modules named {' or '.join(NAMES[self.part])}; "
                f"expected one: give part='module' and a path for the {self.part}"
            )
        return named[0]
