import math

import pytest

from prealign.config import override
from prealign.errors import ConfigError
from prealign.train.settings import TrainSettings


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.2),  # the first of ten steps of warm-up
        (9, 2.0),  # the last of them
        (10, 2.0),  # the cosine begins at the peak
        (55, 0.2 + 1.8 * 0.5),  # half-way down
        (85, 0.2 + 1.8 * 0.5 * (1 + math.cos(math.pi * 75 / 90))),
        (99, 0.2 + 1.8 * 0.5 * (1 + math.cos(math.pi * 89 / 90))),
    ],
)
def test_the_rate_rises_linearly_and_falls_by_a_cosine_to_its_floor(step, rate):
    settings = TrainSettings(lr=2.0, warmup_share=0.1, lr_floor_share=0.1)
    assert settings.learning_rate(step, 100) == pytest.approx(rate)


def test_the_floor_is_reached_when_the_run_is_over():
    settings = TrainSettings(lr=2.0, lr_floor_share=0.25)
    assert settings.learning_rate(100, 100) == pytest.approx(0.5)


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize("evals", [1, 2, 5, 200])
def test_the_last_step_is_always_an_evaluation_point(steps, evals):
    points = TrainSettings(evals=evals).eval_steps(steps)
    assert max(points) == steps
    assert min(points) >= 1
    assert len(points) == min(evals, steps)


def test_evaluation_points_are_evenly_spread():
    assert TrainSettings(evals=4).eval_steps(100) == {25, 50, 75, 100}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"batch_rows": 0}, "batch_rows=0"),
        ({"micro_rows": 0}, "micro_rows=0"),
        ({"evals": 0}, "evals=0"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"lr": math.nan}, "lr=nan"),
        ({"clip_norm": -1.0}, "clip_norm=-1.0"),
        ({"spike_factor": 0.0}, "spike_factor=0.0"),
        ({"new_rows": -1}, "new_rows=-1"),
        ({"new_rows_rate": 0.0}, "new_rows_rate=0.0"),
        ({"new_rows": 4, "new_rows_rate": 30.0, "parallel": "fsdp2"}, "new_rows: rows have no"),
        ({"warmup_share": 1.0}, "warmup_share=1.0"),
        ({"lr_floor_share": 1.5}, "lr_floor_share=1.5"),
        ({"betas": (0.9, 1.0)}, "betas=(0.9, 1.0)"),
        ({"betas": (0.9,)}, "betas=(0.9,)"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named_with_its_value(changes, named):
    with pytest.raises(ConfigError) as error:
        TrainSettings(**changes)
    assert named in str(error.value)


def test_settings_can_be_given_on_the_command_line():
    lines = ["betas=(0.8,0.9)", "micro_rows=2", "spike_factor=none", "compile=off"]
    settings = override(TrainSettings(), lines)
    assert settings == TrainSettings(
        betas=(0.8, 0.9), micro_rows=2, spike_factor=None, compile="off"
    )


def test_what_changes_the_result_decides_and_what_only_shows_it_does_not():
    plain = TrainSettings()
    assert TrainSettings(lr=2e-3).deciding() != plain.deciding()
    assert TrainSettings(log_every_steps=1, checkpoint_every_s=5.0).deciding() == plain.deciding()


def test_new_rows_at_the_usual_rate_may_lie_on_any_process():
    settings = TrainSettings(new_rows=4, parallel="fsdp2")
    assert settings.new_rows == 4
