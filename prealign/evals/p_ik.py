"""P(IK): how likely a model is to know, read off the question alone, before anything is answered.

A small value head looks at the last hidden state of the question and is trained with cross-entropy
to the share of samples that were right (Kadavath et al. 2022, https://arxiv.org/abs/2207.05221).
Departures: the model itself is left as it is, so the head has a hidden layer, and it is trained to
the share among samples that try (`prealign.evals.knowing`). Its inputs are the state itself, or
what the model's own output layer makes of it (`peaks`): how high the likeliest next tokens stand,
whatever they are, so that what is learnt of some answers can be said of others.

Shape letters:  N = questions,  D = width,  H = width of the head.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from torch.nn import functional as F

from prealign.errors import DataError
from prealign.evals.knowing import Tries
from prealign.models.sample import evaluating
from prealign.runs import write_atomic

ROWS_AT_ONCE = 64
STEPS, LR, WEIGHT_DECAY = 300, 1e-2, 1e-2
LOOK_EVERY = 10
"""Steps between looks at the questions kept back, which decide where training ends."""
KIND = "prealign P(IK) head, 1"


@dataclass(frozen=True, eq=False)
class Head:
    """A value head: a layer of width H with a GELU, then one number."""

    mean_D: Tensor
    scale_D: Tensor
    """Hidden states are taken less the mean, over the scale."""
    into_HD: Tensor
    bias_H: Tensor
    out_H: Tensor
    bias: Tensor

    def __call__(self, states_ND: Tensor) -> NDArray[np.float64]:
        """Return P(IK) of each hidden state, in (0, 1).

        Raises:
            DataError: The states have another width, or are not finite.
        """
        if states_ND.ndim != 2 or states_ND.shape[1] != self.mean_D.numel():
            raise DataError(
                f"hidden states of shape {tuple(states_ND.shape)}: expected rows of "
                f"{self.mean_D.numel()}, the width that the head was trained on"
            )
        if not bool(torch.isfinite(states_ND).all()):
            raise DataError("hidden states are NaN or infinite; the model has diverged")
        with torch.inference_mode():
            values_N = self._logits(states_ND.float())
        return np.asarray(values_N.double().sigmoid().numpy(), dtype=np.float64)

    def _logits(self, states_ND: Tensor) -> Tensor:
        inner_NH = F.gelu(F.linear((states_ND - self.mean_D) / self.scale_D, self.into_HD,
                                   self.bias_H))  # fmt: skip
        return inner_NH @ self.out_H + self.bias

    def save(self, path: Path) -> None:
        """Write the head as safetensors."""
        tensors = {name: getattr(self, name).contiguous() for name in _NAMES}
        write_atomic(path, to_safetensors(tensors, {"prealign": json.dumps({"kind": KIND})}))


_NAMES = ("mean_D", "scale_D", "into_HD", "bias_H", "out_H", "bias")


def load_head(path: Path) -> Head:
    """Return a head that `Head.save` wrote.

    Raises:
        DataError: The file is missing or holds something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            kind = json.loads((file.metadata() or {}).get("prealign", "{}")).get("kind")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read as a P(IK) head ({error})") from error
    if kind != KIND or set(tensors) != set(_NAMES):
        raise DataError(f"{path}: holds {kind or 'something'!r}, expected {KIND!r}")
    return Head(**tensors)


def last_states(model: Any, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Return the last hidden state of each prompt's last id, fp32 on the CPU, [N, D].

    Args:
        model: Of transformers, with a body.
        prompts: Ids, one at least each, as they stand in front of an answer.

    Raises:
        DataError: There are no prompts, or one is empty or longer than the model's context.
    """
    room = int(model.config.max_position_embeddings)
    wrong = [len(ids) for ids in prompts if not 1 <= len(ids) <= room]
    if not prompts or wrong:
        raise DataError(
            f"{len(prompts)} prompts, {len(wrong)} of them empty or too long: expected one at "
            f"least, each of 1 to {room} ids"
        )
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: dict[int, Tensor] = {}
    device = next(model.parameters()).device
    with evaluating(model), torch.inference_mode():
        for first in range(0, len(order), ROWS_AT_ONCE):
            some = order[first : first + ROWS_AT_ONCE]
            longest = len(prompts[some[-1]])
            # Padding stands behind the prompt, where a causal model cannot see it.
            rows = [[*prompts[i], *[0] * (longest - len(prompts[i]))] for i in some]
            out = model.base_model(input_ids=torch.tensor(rows, device=device), use_cache=False)
            for i, states_LD in zip(some, out.last_hidden_state, strict=True):
                found[i] = states_LD[len(prompts[i]) - 1].float().cpu()
    return torch.stack([found[i] for i in range(len(prompts))])


def peaks(model: Any, states_ND: Tensor, *, without: int, count: int = 8) -> Tensor:
    """Return log p of the likeliest next tokens behind each state, falling, fp32, [N, count].

    Args:
        model: Of transformers, with an output layer.
        states_ND: See `last_states`.
        without: An id that is left out, such as the one that an abstention begins with.
        count: How many tokens.
    """
    return _next_logp(model, states_ND, without).topk(count, dim=-1).values.float()


def next_entropy(model: Any, states_ND: Tensor, *, without: int) -> NDArray[np.float64]:
    """Return the entropy of the next token behind each hidden state, in nats: P(IK)'s baseline.

    Args:
        model: Of transformers, with an output layer.
        states_ND: See `last_states`.
        without: An id that is left out, such as the one that an abstention begins with.
    """
    p_NV = _next_logp(model, states_ND, without).exp()
    return np.asarray(torch.special.entr(p_NV).sum(-1).numpy(), dtype=np.float64)


def _next_logp(model: Any, states_ND: Tensor, without: int) -> Tensor:
    device = next(model.parameters()).device
    with torch.no_grad():
        logits_NV: Tensor = model.get_output_embeddings()(states_ND.to(device)).double().cpu()
    logits_NV[:, without] = -torch.inf
    return logits_NV.log_softmax(-1)


def fit_head(
    states_ND: Tensor, tries: Sequence[Tries], *, groups: ArrayLike, width: int = 64, seed: int = 0
) -> Head:
    """Return a head trained to the shares of right samples among those that try.

    A fifth of the groups is kept back; the head of the step at which it does best there is taken.

    Args:
        states_ND: Hidden states of the questions.
        tries: Their samples; questions at which nobody tries are left out.
        groups: [N] what is kept back together, such as all questions of one person.
        width: Of the layer inside.
        seed: Of the first weights, and of who is kept back.

    Raises:
        DataError: The numbers differ, or fewer than two groups are left.
    """
    group_N = np.asarray(groups)
    if not len(states_ND) == len(tries) == len(group_N):
        raise DataError(
            f"{len(states_ND)} states, {len(tries)} questions, {len(group_N)} groups: expected as "
            "many of each"
        )
    use = [number for number, one in enumerate(tries) if one.tried]
    names = np.unique(group_N[use])
    if len(names) < 2:
        raise DataError(f"{len(names)} groups of questions with an answer: expected two at least")
    random = np.random.default_rng(seed)
    back = random.permutation(names)[: max(1, len(names) // 5)]
    is_back_N = torch.from_numpy(np.isin(group_N[use], back))
    right_N = torch.tensor([float(tries[i].count("right")) for i in use])
    tried_N = torch.tensor([float(tries[i].tried) for i in use])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _train(states_ND[use].float(), right_N, tried_N, is_back_N, width)


def _train(
    states_ND: Tensor, right_N: Tensor, tried_N: Tensor, is_back_N: Tensor, width: int
) -> Head:
    own_ND, depth = states_ND[~is_back_N], states_ND.shape[1]
    scale_D = own_ND.std(dim=0, correction=0).clamp_min(1e-6)
    head = Head(
        own_ND.mean(dim=0), scale_D,
        nn.Parameter(torch.randn(width, depth) / math.sqrt(depth)),
        nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width)),
        nn.Parameter(torch.zeros(())),
    )  # fmt: skip
    learnt = [head.into_HD, head.bias_H, head.out_H, head.bias]
    optimizer = torch.optim.AdamW(learnt, lr=LR, weight_decay=WEIGHT_DECAY)
    best, best_loss = head, math.inf
    for step in range(STEPS + 1):
        logits_N = head._logits(states_ND)
        loss_N = F.softplus(logits_N) * tried_N - logits_N * right_N
        if step % LOOK_EVERY == 0:
            back = float(loss_N[is_back_N].detach().sum() / tried_N[is_back_N].sum())
            if back < best_loss:
                best_loss = back
                best = Head(*(getattr(head, name).detach().clone() for name in _NAMES))
        optimizer.zero_grad()
        loss = loss_N[~is_back_N].sum() / tried_N[~is_back_N].sum()
        loss.backward()
        optimizer.step()
    return best
