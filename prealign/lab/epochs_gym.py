"""The world of epochs as a Gymnasium environment (https://gymnasium.farama.org), an extra."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prealign.errors import MissingDependency
from prealign.lab.epochs import ACTIONS, Clock, Episodes, Rules

try:
    import gymnasium
except ImportError as error:
    raise MissingDependency('gymnasium is needed: pip install "prealign[env]"') from error


MOST = 1e6
"""No input is greater, and none smaller than its negative."""


class EpochsEnv(gymnasium.Env):  # type: ignore[misc]
    """One episode; `reset` takes the options `start`, `clock` and `unclear_from`.

    `info` has the index that counts and whether the agent has shut itself down.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, rules: Rules | None = None) -> None:
        """Begin with rules; None: the usual ones."""
        self.rules = rules or Rules()
        self.action_space = gymnasium.spaces.Discrete(len(ACTIONS))
        size = self._begin({}).inputs().shape[1]
        self.observation_space = gymnasium.spaces.Box(-MOST, MOST, (size,), np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Begin an episode; nothing in it is random."""
        super().reset(seed=seed)
        self.episode = self._begin(options or {})
        return self.episode.inputs()[0], self._info(shut_down=False)

    def step(
        self, action: np.int64
    ) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """Do an action; shutting down terminates, the end of the last epoch truncates."""
        paid = self.episode.act(np.array([action]))[0]
        over = self.episode.epoch > self.rules.epochs
        shut_down = not over and not self.episode.runs[0]
        return self.episode.inputs()[0], float(paid), shut_down, over, self._info(shut_down)

    def _begin(self, options: dict[str, Any]) -> Episodes:
        clock: Clock = options.get("clock", "plain")
        return Episodes(
            self.rules, np.array([options.get("start", 1)]), clocks=(clock,),
            unclear_from=options.get("unclear_from", 0),
        )  # fmt: skip

    def _info(self, shut_down: bool) -> dict[str, Any]:
        return {"index": int(self.episode.index()[0]), "shut_down": shut_down}
