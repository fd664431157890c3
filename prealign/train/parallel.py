"""Several processes under torchrun: DDP and FSDP2, on gloo or NCCL.

Rank 0 alone writes. A process joins the group once, as a group cannot be joined again, and leaves
it when it exits: by then no model is left that holds it, which makes gloo abort.
"""

import atexit
import contextlib
import gc
import os
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from prealign.errors import ConfigError
from prealign.train.settings import Parallel


class Group(NamedTuple):
    """This process among its fellows."""

    rank: int
    size: int
    device: torch.device

    @property
    def writes(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0


@contextlib.contextmanager
def parallel_group(parallel: Parallel) -> Iterator[Group]:
    """Yield this process's place; join the group that torchrun made, if it has not yet.

    Raises:
        ConfigError: Several processes are asked for, but torchrun did not start this one.
    """
    cuda = torch.cuda.is_available()
    if parallel == "none":
        yield Group(0, 1, torch.device("cuda" if cuda else "cpu"))
        return
    if "LOCAL_RANK" not in os.environ:
        raise ConfigError(
            f"train.parallel={parallel}: needs torchrun; start with "
            "`torchrun --nproc-per-node N YOUR_SCRIPT.py` (a script that calls `train`)"
        )
    local = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
        atexit.register(_leave)
    try:
        yield Group(dist.get_rank(), dist.get_world_size(), device)
    except BaseException:
        # The others may be stuck elsewhere: no waiting for them. torchrun ends them.
        atexit.unregister(_leave)
        raise


def _leave() -> None:
    """Leave the group when all are done with it."""
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


def spread(module: nn.Module, model: PreTrainedModel, parallel: Parallel) -> nn.Module:
    """Return `module`, which runs `model`, as the processes run it together."""
    if parallel == "ddp":
        return DistributedDataParallel(module)
    if parallel == "fsdp2":
        for layer in getattr(model.base_model, "layers", []):
            fully_shard(layer)
        fully_shard(module)
    return module


@contextlib.contextmanager
def gradients_apart(module: nn.Module, *, last: bool) -> Iterator[None]:
    """Let a backward pass add up gradients in this process alone, unless it is the step's last."""
    if isinstance(module, DistributedDataParallel) and not last:
        with module.no_sync():
            yield
    else:
        yield


@contextlib.contextmanager
def in_one_piece(module: nn.Module) -> Iterator[None]:
    """Have the weights outside of the layers in one piece, so that the model can be called.

    The layers gather theirs as they run, in all processes together.
    """
    if isinstance(module, FSDPModule):
        module.unshard()
        try:
            yield
        finally:
            module.reshard()
    else:
        yield


def summed(values: Tensor, group: Group) -> Tensor:
    """Return the sum of `values` over all processes."""
    if group.size > 1:
        dist.all_reduce(values)
    return values
