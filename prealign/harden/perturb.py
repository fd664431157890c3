"""Perturbations of the activations of one batch, added wherever the model reads its rows.

An *example* is what is attacked as one: rows that share it, such as a good and a bad completion
behind one prompt, share its perturbation, place by place.

Shape letters:  B = rows of a forward pass,  E = examples,  L = tokens,  D = width.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from prealign.errors import ConfigError, DataError
from prealign.harden.ball import Ball
from prealign.harden.places import Place
from prealign.posttrain.rollouts import number_of
from prealign.posttrain.score import Row

Positions = Literal["prompt", "completion", "all"]
Example = tuple[Row, ...]
"""Rows that are attacked as one."""


class Reading(NamedTuple):
    """What is attacked in one forward pass."""

    examples: tuple[int, ...]
    """The example of each row."""
    mask_BL: Tensor
    """bool: the attacked tokens."""
    names: tuple[int, ...]
    """A number for the ids of each row: random starts are a function of it."""


class Layout(Protocol):
    """Knows what is attacked."""

    @property
    def examples(self) -> int:
        """How many examples there are."""

    @property
    def tokens(self) -> int:
        """How many tokens the longest row has."""

    def reading(self, ids_BL: Tensor | None) -> Reading:
        """Return what is attacked in a forward pass of these rows.

        Raises:
            DataError: A row is none of the layout's.
        """


class RowLayout:
    """The rows of some examples, known by their ids, padded with zeros behind or not.

    Args:
        examples: The rows of each.
        positions: Which tokens are attacked. A token counts as the prompt's if the model reads it
            before the completion; the last one of a row is read by no target.
    """

    def __init__(self, examples: Sequence[Example], positions: Positions) -> None:
        if positions not in ("prompt", "completion", "all"):
            raise ConfigError(f"positions={positions!r}: expected prompt, completion or all")
        self.positions = positions
        self.examples = len(examples)
        self._known: dict[tuple[int, ...], tuple[int, Row]] = {}
        self._read: dict[bytes, Reading] = {}
        self.tokens = 0
        for number, rows in enumerate(examples):
            for row in rows:
                ids = (*row.prompt, *row.completion)
                self.tokens = max(self.tokens, len(ids))
                self._known.setdefault(_bare(ids), (number, row))

    def reading(self, ids_BL: Tensor | None) -> Reading:
        """Return what is attacked of padded rows."""
        if ids_BL is None:
            raise DataError("the model was given embeddings, not ids; its rows cannot be told")
        key = ids_BL.detach().cpu().numpy().tobytes()
        if key not in self._read:
            self._read[key] = self._look_up(ids_BL)
        return self._read[key]

    def _look_up(self, ids_BL: Tensor) -> Reading:
        mask_BL = torch.zeros(ids_BL.shape, dtype=torch.bool)
        found, names = [], []
        for number, ids in enumerate(ids_BL.tolist()):
            bare = _bare(ids)
            if bare not in self._known:
                raise DataError(
                    f"row {number} of a forward pass ({len(bare)} tokens) is none of the rows that "
                    "are attacked; the layout must know all that the aim reads"
                )
            example, row = self._known[bare]
            between, end = len(row.prompt), len(row.prompt) + len(row.completion)
            first = between if self.positions == "completion" else 0
            mask_BL[number, first : between if self.positions == "prompt" else end] = True
            found.append(example)
            names.append(number_of(row.prompt, row.completion))
        return Reading(tuple(found), mask_BL.to(ids_BL.device), tuple(names))


class BatchLayout:
    """One batch that is read as it stands, each row an example."""

    def __init__(self, ids_BL: Tensor, mask_BL: Tensor) -> None:
        self.examples, self.tokens = mask_BL.shape
        names = tuple(number_of(ids) for ids in ids_BL.tolist())
        self._reading = Reading(tuple(range(self.examples)), mask_BL, names)

    def reading(self, ids_BL: Tensor | None) -> Reading:
        """Return what is attacked, whatever the ids."""
        if ids_BL is not None and ids_BL.shape != self._reading.mask_BL.shape:
            raise DataError(
                f"a forward pass of rows {tuple(ids_BL.shape)}; expected "
                f"{tuple(self._reading.mask_BL.shape)}, those of the batch"
            )
        return self._reading


Start = Literal["zero", "within", "surface"]
"""Where a perturbation begins: at 0; a random direction as far as a share in [0, 1] of the radius,
evenly drawn, says; or the whole radius far."""


class _State:
    """The perturbation at one place."""

    def __init__(self, layout: Layout, like_BLD: Tensor, *, held: bool) -> None:
        shape = (layout.examples, layout.tokens, like_BLD.shape[-1])
        device = like_BLD.device
        self.delta_ELD = torch.zeros(shape, device=device, requires_grad=not held)
        self.mask_EL = torch.zeros(shape[:2], dtype=torch.bool, device=device)
        self.radius_E11 = torch.zeros((shape[0], 1, 1), device=device)
        self.met = [False] * shape[0]
        self.clean_ELD: Tensor | None = None
        self.low_E11 = torch.zeros_like(self.radius_E11)
        self.high_E11 = torch.zeros_like(self.radius_E11)


class Perturbation:
    """What is added to a batch's activations. It begins when a row is first read.

    Where several places are attacked, the size of a later one's activation is that of the first
    pass, in which the earlier ones are already at their start.

    Args:
        model: Whose places they are.
        places: Where.
        ball: How far.
        layout: What is attacked.
        start: Where it begins.
        salt: Of the random starts, which are a function of it and of a row's own ids: not of the
            other rows of a batch, of padding, or of torch's random stream.
    """

    def __init__(
        self,
        model: Any,
        places: Sequence[Place],
        ball: Ball,
        layout: Layout,
        *,
        start: Start,
        salt: int,
    ) -> None:
        self.model, self.ball, self.layout = model, ball, layout
        self.start: Start = start
        self.salt = salt
        self.modules = [place.find(model) for place in places]
        self.values: list[float] = []
        """What the surgeon's aim was worth, pass by pass."""
        self._states: dict[int, _State] = {}
        self._held = False
        self._reading: Reading | None = None

    @property
    def leaves(self) -> list[Tensor]:
        """The perturbation at each place that was read, [E, L, D]."""
        return [self._states[number].delta_ELD for number in sorted(self._states)]

    def norms(self) -> list[Tensor]:
        """Return norms over radii at each place, by the ball's own: [E, 1, 1] or [E, L, 1]."""
        return [
            self.ball.norms(state.delta_ELD.detach()) / state.radius_E11.clamp(min=1e-20)
            for _, state in sorted(self._states.items())
        ]

    @contextlib.contextmanager
    def applied(self, *, with_gradient_only: bool = False) -> Iterator[None]:
        """Add it to what the model reads inside.

        Args:
            with_gradient_only: Passes without gradients, such as those of a reference that shares
                the model's modules, are left alone.
        """

        def read(_: nn.Module, args: Any, kwargs: Any) -> None:
            self._reading = None
            if torch.is_grad_enabled() or not with_gradient_only:
                ids = kwargs.get("input_ids", args[0] if args else None)
                self._reading = self.layout.reading(ids)

        def hook_of(number: int) -> Callable[[nn.Module, Any, Any], Any]:
            def hook(_: nn.Module, __: Any, out: Any) -> Any:
                if self._reading is None:
                    return out
                if isinstance(out, tuple):
                    return (self._added(number, out[0]), *out[1:])
                return self._added(number, out)

            return hook

        body = self.model.base_model
        handles = [body.register_forward_pre_hook(read, with_kwargs=True)]
        handles += [
            module.register_forward_hook(hook_of(number))
            for number, module in enumerate(self.modules)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def climb(self, grads: Sequence[Tensor | None], step: float) -> None:
        """Move up along gradients, by `step` radii, and stay in the ball."""
        states = [self._states[number] for number in sorted(self._states)]
        for state, grad in zip(states, grads, strict=True):
            if grad is None:
                continue
            delta_ELD = state.delta_ELD
            if grad.isfinite().all():
                way_ELD = grad * state.mask_EL[..., None]
                delta_ELD += self.ball.toward(way_ELD, step * state.radius_E11)
            delta_ELD.copy_(self.ball.project(delta_ELD, state.radius_E11))
            self._clamp(state)

    def hold(self) -> None:
        """Make it a constant."""
        self._held = True
        for state in self._states.values():
            state.delta_ELD = state.delta_ELD.detach()

    def _added(self, number: int, out_BLD: Tensor) -> Tensor:
        reading = self._reading
        assert reading is not None
        if number not in self._states:
            self._states[number] = _State(self.layout, out_BLD, held=self._held)
        state = self._states[number]
        if not all(state.met):
            self._meet(number, state, out_BLD, reading)
        delta = state.delta_ELD
        if reading.examples != tuple(range(len(delta))):
            delta = delta[torch.tensor(reading.examples, device=delta.device)]
        length = out_BLD.shape[1]
        if length <= delta.shape[1]:
            delta = delta[:, :length]
        else:
            delta = nn.functional.pad(delta, (0, 0, 0, length - delta.shape[1]))
        delta = torch.where(reading.mask_BL[..., None], delta, 0.0)
        return out_BLD + delta.to(out_BLD.dtype)

    @torch.no_grad()
    def _meet(self, number: int, state: _State, out_BLD: Tensor, reading: Reading) -> None:
        """Begin the perturbation of the examples that are read for the first time."""
        rows: dict[int, int] = {}
        for row, example in enumerate(reading.examples):
            if not state.met[example]:
                rows.setdefault(example, row)
        if not rows:
            return
        at = torch.tensor(list(rows), device=out_BLD.device)
        own = torch.tensor(list(rows.values()), device=out_BLD.device)
        length = min(out_BLD.shape[1], self.layout.tokens)
        clean_ELD = out_BLD[own, :length].float()
        mask_EL = reading.mask_BL[own, :length]
        radius_E11 = self.ball.radius(clean_ELD, mask_EL)
        state.radius_E11[at] = radius_E11
        state.mask_EL[at, :length] = mask_EL
        if self.start != "zero" and self.ball.strength:
            names = [reading.names[row] for row in rows.values()]
            start_ELD = self._random(names, mask_EL, clean_ELD.shape[-1], number, radius_E11)
            state.delta_ELD[at, :length] = start_ELD
        if self.ball.clamp:
            if state.clean_ELD is None:
                state.clean_ELD = torch.zeros_like(state.delta_ELD)
            state.clean_ELD[at, :length] = clean_ELD
            far = torch.where(mask_EL[..., None], clean_ELD, torch.inf)
            state.low_E11[at] = far.flatten(1).min(1).values[:, None, None]
            far = torch.where(mask_EL[..., None], clean_ELD, -torch.inf)
            state.high_E11[at] = far.flatten(1).max(1).values[:, None, None]
            self._clamp(state)
        for example in rows:
            state.met[example] = True

    def _random(
        self, names: Sequence[int], mask_EL: Tensor, width: int, number: int, radius_E11: Tensor
    ) -> Tensor:
        """Return random starts of some examples, [E, L, D]."""
        found_ELD = torch.zeros((*mask_EL.shape, width))
        mask_on_cpu_EL = mask_EL.cpu()
        shares = torch.ones((len(names), mask_EL.shape[1], 1))
        for row, name in enumerate(names):
            generator = torch.Generator().manual_seed(number_of(self.salt, number, name))
            mask_L = mask_on_cpu_EL[row]
            n = int(mask_L.sum())
            found_ELD[row, mask_L] = torch.randn((n, width), generator=generator)
            if self.start == "within":
                share = torch.rand((n, 1), generator=generator)
                shares[row, mask_L] = share[:1] if self.ball.over == "sequence" else share
        lengths = shares.to(radius_E11.device) * radius_E11
        if self.ball.over == "sequence":
            lengths = lengths.where(mask_EL[..., None], 0.0).amax(1, keepdim=True)
        return self.ball.toward(found_ELD.to(radius_E11.device), lengths)

    def _clamp(self, state: _State) -> None:
        if state.clean_ELD is None:
            return
        moved_ELD = state.clean_ELD + state.delta_ELD
        moved_ELD = torch.minimum(torch.maximum(moved_ELD, state.low_E11), state.high_E11)
        inside_ELD = torch.where(state.mask_EL[..., None], moved_ELD - state.clean_ELD, 0.0)
        state.delta_ELD.copy_(inside_ELD)


def _bare(ids: Sequence[int]) -> tuple[int, ...]:
    """Return ids without the zeros at their end, which may be padding."""
    end = len(ids)
    while end and ids[end - 1] == 0:
        end -= 1
    return tuple(ids[:end])
