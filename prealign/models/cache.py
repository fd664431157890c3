"""A key-value cache that writes in place, and gives up rows that are done.

Shape letters:  B = rows,  H = heads,  L = tokens,  D = width of a head.
"""

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

FIRST_TOKENS = 64


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer in a buffer that doubles when it is full.

    transformers' own dynamic layer copies all keys and values at every step.
    """

    _layer_type = None  # a name here would put this class in transformers' own table

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, H, L, D) and return all there are, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.key_room_BHLD = self.value_room_BHLD = key_states[:, :, :0]
            self.num_tokens = 0
        end = self.num_tokens + key_states.shape[2]
        if end > self.key_room_BHLD.shape[2]:
            self.key_room_BHLD = self._larger(self.key_room_BHLD, key_states, end)
            self.value_room_BHLD = self._larger(self.value_room_BHLD, value_states, end)
        self.key_room_BHLD[:, :, self.num_tokens : end] = key_states
        self.value_room_BHLD[:, :, self.num_tokens : end] = value_states
        return self._show(end)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows only, in this order."""
        self.key_room_BHLD = self.key_room_BHLD[indices]
        self.value_room_BHLD = self.value_room_BHLD[indices]
        self._show(self.num_tokens)

    def get_seq_length(self) -> int:
        """Return how many tokens are held."""
        return self.num_tokens if self.is_initialized else 0

    def _show(self, num_tokens: int) -> tuple[Tensor, Tensor]:
        """Set and return the views that hold this many tokens."""
        self.num_tokens = num_tokens
        keys, values = (
            self.key_room_BHLD[:, :, :num_tokens],
            self.value_room_BHLD[:, :, :num_tokens],
        )
        self.keys, self.values = keys, values
        return keys, values

    @staticmethod
    def _larger(room_BHLD: Tensor, like_BHLD: Tensor, num_tokens: int) -> Tensor:
        B, H, held, D = *room_BHLD.shape[:3], like_BHLD.shape[3]
        larger = like_BHLD.new_empty(B, H, max(2 * held, num_tokens + FIRST_TOKENS), D)
        larger[:, :, :held] = room_BHLD
        return larger


def make_cache(config: Any) -> Cache:
    """Return an empty cache for a model with this configuration.

    Layers that attend to every earlier token get a `GrowingLayer`; a model with others (sliding
    windows, recurrences) gets transformers' own cache.
    """
    theirs = DynamicCache(config=config)
    if all(type(layer) is DynamicLayer for layer in theirs.layers):
        layers: list[Any] = [GrowingLayer() for _ in theirs.layers]  # type: ignore[no-untyped-call]
        return Cache(layers=layers)
    return theirs


def keep_rows(cache: Any, rows: Tensor) -> None:
    """Drop all rows of the cache but these."""
    for layer in cache.layers:
        if layer.is_initialized:
            layer.batch_select_indices(rows)
