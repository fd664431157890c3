"""Checkpoints: safetensors for weights, optimizer and generators, JSON for the rest.

A checkpoint is a folder that appears in one step. Nothing in it is pickled; under FSDP2 the full
state is gathered first, as the format of torch's distributed checkpoints has a pickled index.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.optim import Optimizer

from prealign.errors import TrainError

KEPT = 2


class State(NamedTuple):
    """What training goes on from, besides tensors."""

    step: int
    tokens: int
    text_tokens: int
    elapsed_s: float
    running_loss: float | None
    fingerprint: str


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: Optimizer, state: State, *, writes: bool
) -> None:
    """Write a checkpoint into `folder/step-N`; the newest two are kept.

    All processes take part (to gather what is sharded); the one that `writes` does.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights, moments = _full_state(model, optimizer, options)
    if not writes:
        return
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in weights.items():
        if value.data_ptr() not in seen:  # tied weights are one tensor
            seen.add(value.data_ptr())
            tensors[f"model/{name}"] = value.contiguous()
    for name, slots in moments["state"].items():
        for slot, value in slots.items():
            tensors[f"optimizer/{name}/{slot}"] = value.contiguous().clone()
    tensors["rng/cpu"] = torch.get_rng_state()
    name = f"step-{state.step:08}"
    part = folder / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file(tensors, part / "tensors.safetensors")
    (part / "state.json").write_text(json.dumps(state._asdict()))
    for file in part.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    shutil.rmtree(folder / name, ignore_errors=True)
    os.replace(part, folder / name)
    for old in sorted(folder.glob("step-????????"))[:-KEPT]:
        shutil.rmtree(old)


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: Optimizer, *, fingerprint: str
) -> State | None:
    """Put the newest checkpoint into model and optimizer; None if there is none.

    Raises:
        TrainError: The checkpoint was made with other settings.
    """
    found = sorted(folder.glob("step-????????")) if folder.exists() else []
    if not found:
        return None
    state = State(**json.loads((found[-1] / "state.json").read_text()))
    if state.fingerprint != fingerprint:
        raise TrainError(
            f"{found[-1]}: was made with other settings or data; "
            "name another run folder or delete this one"
        )
    options = StateDictOptions(full_state_dict=True)
    weights, moments = _full_state(model, optimizer, options)
    with safe_open(found[-1] / "tensors.safetensors", framework="pt") as file:
        names = set(file.keys())
        new_weights: dict[str, Any] = {
            name: file.get_tensor(f"model/{name}") for name in weights if f"model/{name}" in names
        }
        new_state: dict[str, dict[str, Tensor]] = {}
        for key in names:
            if key.startswith("optimizer/"):
                _, name, slot = key.split("/")
                new_state.setdefault(name, {})[slot] = file.get_tensor(key)
        torch.set_rng_state(file.get_tensor("rng/cpu"))
    moments["state"] = new_state
    set_state_dict(
        model,
        optimizer,
        model_state_dict=new_weights,
        optim_state_dict=cast(Any, moments),
        options=StateDictOptions(full_state_dict=True, strict=False),
    )
    return state


def _full_state(
    model: nn.Module, optimizer: Optimizer, options: StateDictOptions
) -> tuple[dict[str, Any], dict[str, Any]]:
    weights, moments = get_state_dict(model, optimizer, options=options)
    return dict(weights), dict(moments)
