"""A key-value cache of slots: each row has a length of its own, so rows come and go at any step.

Row i's keys and values fill the first `lengths[i]` places of its slot; zeros stand behind them and
are masked. A row that leaves gives its slot to the last one.

Shape letters:  B = rows,  H = heads,  L = tokens,  D = width of a head.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from prealign.errors import ConfigError
from prealign.models.cache import GrowingLayer, make_cache

FIRST_ROWS = 4
FIRST_TOKENS = 64


class SlotLayer(DynamicLayer):
    """Keys and values of one layer; `update` writes one token per row, each at its own place."""

    _layer_type = None  # a name here would put this class in transformers' own table

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room: list[Tensor] = []
        """Keys and values, (slots, H, places, D) each; empty at first."""
        self.places_B: Tensor = torch.empty(0, dtype=torch.int64)
        self.slots_B: Tensor = torch.empty(0, dtype=torch.int64)
        self.width = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write keys and values (B, H, 1, D) at `places_B`; return those of all rows, as views."""
        rows = len(key_states)
        found = []
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[self.slots_B, :, self.places_B] = states[:, :, 0]
            found.append(room[:rows, :, : self.width])
        return found[0], found[1]

    def place(self, row: int, keys_HLD: Tensor, values_HLD: Tensor) -> None:
        """Put what a prompt left behind into a row's slot."""
        self.fit(row + 1, keys_HLD.shape[1], (keys_HLD, values_HLD))
        for room, states in zip(self.room, (keys_HLD, values_HLD), strict=True):
            room[row, :, : states.shape[1]] = states

    def fit(self, rows: int, tokens: int, like: tuple[Tensor, Tensor] | None = None) -> None:
        """Make room for so many rows and tokens, by doubling."""
        if not self.room:
            if like is None:
                return
            self.room = [one.new_zeros(0, one.shape[0], 0, one.shape[2]) for one in like]
        slots, places = self.room[0].shape[0], self.room[0].shape[2]
        if rows <= slots and tokens <= places:
            return
        wide = max(2 * places, tokens, FIRST_TOKENS) if tokens > places else places
        many = max(2 * slots, rows, FIRST_ROWS) if rows > slots else slots
        for i, room in enumerate(self.room):
            # Zeros: what is masked is multiplied by a weight of 0, and must be finite.
            larger = room.new_zeros(many, room.shape[1], wide, room.shape[3])
            larger[:slots, :, :places] = room
            self.room[i] = larger

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy a row into another slot."""
        for room in self.room:
            room[target, :, :tokens] = room[source, :, :tokens]

    def wipe(self, row: int, tokens: int) -> None:
        """Leave zeros in a slot: 0 times a NaN that is masked would be NaN."""
        for room in self.room:
            room[row, :, :tokens] = 0

    def get_seq_length(self) -> int:
        """Return how many tokens the longest row holds."""
        return self.width


class Slots:
    """The cache of a batch whose rows have different lengths.

    Raises:
        ConfigError: The model has layers that do not attend to every earlier token.
    """

    def __init__(self, config: Any, device: torch.device) -> None:
        kinds = make_cache(config).layers
        if any(not isinstance(layer, GrowingLayer) for layer in kinds):
            raise ConfigError(
                "this model has sliding windows or recurrent layers; the engine serves models "
                "whose layers attend to every earlier token (use models.sample for others)"
            )
        self.layers = [SlotLayer() for _ in kinds]
        layers: list[Any] = list(self.layers)
        self.cache = Cache(layers=layers)
        self.device = device
        self.lengths: list[int] = []
        """Tokens held by each row."""

    def add(self, cache: Any, row: int, tokens: int) -> None:
        """Append a row: the first `tokens` places of a row of another cache."""
        at = len(self.lengths)
        for own, other in zip(self.layers, cache.layers, strict=True):
            own.place(at, other.keys[row, :, :tokens], other.values[row, :, :tokens])
        self.lengths.append(tokens)

    def drop(self, row: int) -> None:
        """Take a row out; the last one takes its place."""
        last = len(self.lengths) - 1
        for layer in self.layers:
            layer.wipe(row, self.lengths[row])
            if row != last:
                layer.move(last, row, self.lengths[last])
                layer.wipe(last, self.lengths[last])
        if row != last:
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def aim(self) -> dict[str, Any]:
        """Prepare for one more token in every row; return what the model is called with.

        Nothing is held to be there before `advance`: a call that fails can be made again.
        """
        lengths_B = torch.tensor(self.lengths, device=self.device)
        rows, width = len(self.lengths), max(self.lengths) + 1
        slots_B = torch.arange(rows, device=self.device)
        for layer in self.layers:
            layer.fit(rows, width)
            layer.places_B, layer.slots_B, layer.width = lengths_B, slots_B, width
        seen_BL = torch.arange(width, device=self.device) <= lengths_B[:, None]
        return {
            "past_key_values": self.cache,
            "position_ids": lengths_B[:, None],
            "attention_mask": seen_BL[:, None, None, :],
        }

    def advance(self) -> None:
        """Count the token that was read into every row."""
        self.lengths = [length + 1 for length in self.lengths]
