"""Trains in several processes: run by test_parallel.py under torchrun."""

import sys
from pathlib import Path

import torch

from tests.train.fakes import FakeRows, trained

DATA = FakeRows(num_rows=38)
SETTINGS = {"data": DATA, "batch_rows": 8, "evals": 2}


def loss_of(model, progress):
    """Return the loss of the first row, which every process reads."""
    ids_BL = torch.from_numpy(DATA.ids[:1])
    with torch.no_grad():
        loss = model(input_ids=ids_BL, labels=ids_BL).loss
    return [{"metric": "loss", "value": loss.item()}]


def main() -> None:
    """Train in step, in step with a stop on the way, and in shards: whole and the first half."""
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    ddp = {**SETTINGS, "parallel": "ddp", "at_eval": loss_of}
    fsdp2 = {**SETTINGS, "parallel": "fsdp2", "at_eval": loss_of}
    trained(out / "ddp", micro_rows=2, **ddp)
    trained(out / "ddp-resumed", stop=3, **ddp)
    trained(out / "ddp-resumed", **ddp)
    trained(out / "fsdp2", micro_rows=2, **fsdp2)
    trained(out / "fsdp2-resumed-by-one", stop=3, **fsdp2)


if __name__ == "__main__":
    main()
