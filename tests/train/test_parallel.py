import subprocess
import sys

import pytest
import torch

from prealign.runs import RunFolder
from prealign.train.checkpoint import load_weights
from tests.train.fakes import small_model, trained
from tests.train.run_parallel import SETTINGS, loss_of


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a folder with the same run by one process and by two, in step and in shards."""
    out = tmp_path_factory.mktemp("parallel")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", "-m", "tests.train.run_parallel", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    trained(out / "none", **SETTINGS, at_eval=loss_of)
    trained(out / "fsdp2-resumed-by-one", **SETTINGS, at_eval=loss_of)
    return out


def test_two_processes_train_and_measure_as_one_does(runs):
    """All in one test: the runs are made once for it, and not once for each worker."""
    for name in ("ddp", "fsdp2", "ddp-resumed", "fsdp2-resumed-by-one"):
        rows, alone = (RunFolder(runs / folder).rows("metrics") for folder in (name, "none"))
        assert [row["step"] for row in rows] == [row["step"] for row in alone] == [1, 2, 3, 4, 5]
        for row, one in zip(rows, alone, strict=True):
            assert row["tokens"] == one["tokens"], name
            assert row["text_tokens"] == one["text_tokens"], name
            for metric in ("loss_nats", "text_nats", "tag_nats", "grad_norm"):
                assert row[metric] == pytest.approx(one[metric], abs=1e-5), (name, metric)
        rows, alone = (RunFolder(runs / folder).rows("evals") for folder in (name, "none"))
        assert [row["step"] for row in rows] == [row["step"] for row in alone] == [2, 5], name
        values = [row["value"] for row in alone]
        assert [row["value"] for row in rows] == pytest.approx(values, abs=1e-5), name
    for name in ("ddp", "fsdp2"):  # the weights of all processes are in one checkpoint
        models = []
        for folder in (name, "none"):
            models.append(small_model(3))
            assert load_weights(runs / folder / "checkpoints", models[-1]) == 5
        for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
