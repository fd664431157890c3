"""Trains until it is killed: run by test_loop.py in a process of its own."""

import sys
from pathlib import Path

import torch

from tests.train.fakes import trained

if __name__ == "__main__":
    torch.set_num_threads(1)
    trained(Path(sys.argv[1]), checkpoint_every_s=1e-6, **{"lr": 0.02, "evals": 5})
