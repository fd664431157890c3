"""Post-trains until it is killed: run by test_trainer.py in a process of its own."""

import sys
from pathlib import Path

import torch

from tests.posttrain.letters import a_method as method
from tests.posttrain.letters import a_stage, trained

if __name__ == "__main__":
    torch.set_num_threads(1)
    stage = a_stage("recontextualization")
    trained(Path(sys.argv[1]), method(stage=stage, beta=0.1), steps=300, checkpoint_every_s=1e-6)
