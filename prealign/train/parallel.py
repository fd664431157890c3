"""Several processes under torchrun: DDP and FSDP2, on gloo or NCCL.

Rank 0 alone writes. Gloo jobs can abort at interpreter exit; leaving through `parallel_group`
frees what holds the group before it is destroyed.
"""

import contextlib
import gc
import os
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from prealign.errors import ConfigError


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
def parallel_group(parallel: Literal["none", "ddp", "fsdp2"]) -> Iterator[Group]:
    """Yield this process's place; join and leave the group that torchrun made.

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
            "`torchrun --nproc-per-node N -m prealign.cli run ...`"
        )
    joined = dist.is_initialized()
    if not joined:
        dist.init_process_group("nccl" if cuda else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    try:
        yield Group(dist.get_rank(), dist.get_world_size(), device)
    finally:
        gc.collect()
        if not joined:
            dist.barrier()
            dist.destroy_process_group()


def spread(
    module: nn.Module, layers: nn.ModuleList | None, parallel: Literal["none", "ddp", "fsdp2"]
) -> nn.Module:
    """Return the module as the processes run it together."""
    if parallel == "ddp":
        return DistributedDataParallel(module)
    if parallel == "fsdp2":
        for layer in layers or []:
            fully_shard(layer)
        fully_shard(module)
    return module


def summed(values: Tensor, group: Group) -> Tensor:
    """Return the sum of `values` over all processes."""
    if group.size > 1:
        dist.all_reduce(values)
    return values
