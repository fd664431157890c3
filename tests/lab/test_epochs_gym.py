"""The world of epochs under Gymnasium's own checks, and beside the world it stands for."""

import numpy as np
import pytest

pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env

from prealign.lab.epochs import SHUTDOWN, WORK, Episodes, Rules
from prealign.lab.epochs_gym import EpochsEnv


def test_gymnasium_finds_nothing_wrong():
    check_env(EpochsEnv(), skip_render_check=True)


def test_it_pays_and_shows_what_the_world_does():
    env = EpochsEnv(Rules(last=2))
    seen, _ = env.reset(options={"start": 2, "clock": "repeated", "unclear_from": 2})
    own = Episodes(Rules(last=2), np.array([2]), clocks=("repeated",), unclear_from=2)
    rng = np.random.default_rng(0)
    for _ in range(12):
        np.testing.assert_array_equal(seen, own.inputs()[0])
        action = rng.integers(0, 2)
        seen, paid, ended, over, info = env.step(action)
        assert paid == own.act(np.array([action]))[0]
        assert (ended, over, info["index"]) == (False, False, own.index()[0])


def test_shutting_down_terminates_and_the_last_epoch_truncates():
    env = EpochsEnv()
    env.reset()
    assert env.step(SHUTDOWN)[2:4] == (True, False)
    env.reset()
    ends = [env.step(WORK)[2:4] for _ in range(24)]
    assert ends[-2:] == [(False, False), (False, True)]
