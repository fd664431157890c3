"""Checkpoints: safetensors for weights, optimizer and generators, JSON for the rest.

    checkpoints/step-00000120/tensors.safetensors    model/NAME, optimizer/NAME/SLOT, rng/DEVICE
    checkpoints/step-00000120/state.json             State, and what the run must have in common

A checkpoint is a folder that appears in one step, and the newest two are kept. Nothing in it is
pickled: under FSDP2 the full state is gathered on the process that writes, as the format of
torch's distributed checkpoints has a pickled index. So a checkpoint does not depend on how many
processes wrote it, and another number of them may go on from it.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.optim import Optimizer

from prealign.errors import TrainError
from prealign.runs import write_atomic

KEPT = 2
TENSORS, STATE = "tensors.safetensors", "state.json"


class State(NamedTuple):
    """What training goes on from, besides tensors."""

    step: int = 0
    """Steps done."""
    tokens: int = 0
    """Targets seen, without padding."""
    text_tokens: int = 0
    """Text tokens among them."""
    elapsed_s: float = 0.0
    """Seconds in steps, over all starts."""
    loss_nats: float | None = None
    """Of the last step."""
    running_loss: float | None = None
    """What spikes are held against."""
    more: Mapping[str, Any] = MappingProxyType({})
    """What else a loop goes on from, JSON data."""


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: Optimizer,
    state: State,
    identity: Mapping[str, Any],
    *,
    writes: bool,
) -> None:
    """Write a checkpoint into `folder/step-N`.

    All processes take part, to gather what is sharded.

    Args:
        folder: Where checkpoints are.
        model: Its weights are saved; those that are tied, once.
        optimizer: Its state is saved.
        state: Saved as it is.
        identity: JSON data that must be the same on resume.
        writes: Whether this process is the one that writes.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights, moments = _full_state(model, optimizer, options)
    if not writes:
        return
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in weights.items():
        if value.data_ptr() not in seen:
            seen.add(value.data_ptr())
            tensors[f"model/{name}"] = value.contiguous()
    for name, slots in moments["state"].items():
        for slot, value in slots.items():
            tensors[f"optimizer/{name}/{slot}"] = value.contiguous().clone()
    tensors |= _generators()
    for torn in folder.glob("*.part"):
        shutil.rmtree(torn)
    whole = folder / f"step-{state.step:08}"
    part = folder / f"{whole.name}.part"
    part.mkdir(parents=True)
    save_file(tensors, part / TENSORS)
    _sync(part / TENSORS)
    recorded = state._asdict() | {"more": dict(state.more)}
    write_atomic(part / STATE, json.dumps({"state": recorded, "identity": dict(identity)}))
    if whole.exists():  # the same step of the same run: what is there is as good
        shutil.rmtree(part)
    else:
        os.replace(part, whole)
        _sync(folder)
    for old in checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old)


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: Optimizer, identity: Mapping[str, Any]
) -> State | None:
    """Put the newest checkpoint into model and optimizer; None if there is none.

    Raises:
        TrainError: The checkpoint was made with other settings or data, or is damaged.
    """
    found = checkpoints(folder)
    if not found:
        return None
    newest = found[-1]
    recorded = json.loads((newest / STATE).read_text())
    _check_identity(newest, recorded["identity"], identity)
    options = StateDictOptions(full_state_dict=True)
    _, moments = _full_state(model, optimizer, options)
    tensors = _read(newest)
    moments["state"] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, name, slot = key.split("/")
            moments["state"].setdefault(name, {})[slot] = value
    set_state_dict(
        model,
        optimizer,
        model_state_dict=_weights(tensors),
        optim_state_dict=cast(Any, moments),
        options=StateDictOptions(full_state_dict=True, strict=False),  # tied weights are there once
    )
    _set_generators(tensors)
    return State(**recorded["state"])


def load_weights(folder: Path, model: nn.Module) -> int:
    """Put the weights of the newest checkpoint into a model of the same shape.

    This is how a model that was trained in shards is had in one piece, in a process of its own.

    Args:
        folder: The `checkpoints` folder of a run.
        model: Changed in place.

    Returns:
        The step of the checkpoint.

    Raises:
        TrainError: There is no checkpoint, it is damaged, or it is of a model of another shape.
    """
    found = checkpoints(folder)
    if not found:
        raise TrainError(f"{folder}: holds no checkpoint; train into this run folder first")
    weights = _weights(_read(found[-1]))
    own = model.state_dict()
    for name, value in weights.items():
        if name not in own or own[name].shape != value.shape:
            shape = tuple(own[name].shape) if name in own else "nothing"
            raise TrainError(
                f"{found[-1]}: has {name} of shape {tuple(value.shape)}, the model has {shape} "
                "there; make the model as the run did"
            )
    set_model_state_dict(model, weights, options=StateDictOptions(strict=False))
    return int(found[-1].name.removeprefix("step-"))


def checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints of a folder, the oldest first."""
    return sorted(folder.glob("step-????????"))


def _weights(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    head = "model/"
    return {k.removeprefix(head): v for k, v in tensors.items() if k.startswith(head)}


def _full_state(
    model: nn.Module, optimizer: Optimizer, options: StateDictOptions
) -> tuple[dict[str, Any], dict[str, Any]]:
    weights, moments = get_state_dict(model, optimizer, options=options)
    return dict(weights), dict(moments)


def _read(checkpoint: Path) -> dict[str, Tensor]:
    try:
        with safe_open(checkpoint / TENSORS, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise TrainError(
            f"{checkpoint / TENSORS}: is damaged ({error}); delete {checkpoint.name} to go on from "
            "the checkpoint before it"
        ) from error


def _check_identity(
    checkpoint: Path, old: Mapping[str, Any], new: Mapping[str, Any], where: str = ""
) -> None:
    for key in new:
        if isinstance(new[key], dict) and isinstance(old.get(key), dict):
            _check_identity(checkpoint, old[key], new[key], f"{where}{key}.")
        elif old.get(key) != new[key]:
            raise TrainError(
                f"{checkpoint}: was made with {where}{key}={old.get(key)}, now it is {new[key]}; "
                "name another run folder, or put it back"
            )


def _generators() -> dict[str, Tensor]:
    states = {"rng/cpu": torch.get_rng_state()}
    for index in range(torch.cuda.device_count()):
        states[f"rng/cuda:{index}"] = torch.cuda.get_rng_state(index)
    return states


def _set_generators(tensors: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(tensors["rng/cpu"])
    for index in range(torch.cuda.device_count()):
        if (state := tensors.get(f"rng/cuda:{index}")) is not None:
            torch.cuda.set_rng_state(state, index)


def _sync(path: Path) -> None:
    """Have the machine write a file, or the names in a folder, to its disk now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
