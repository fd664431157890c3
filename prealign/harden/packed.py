"""The pretraining loop under a surgeon: packed rows, tagged or not, with any objective."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Tensor
from transformers import PreTrainedModel

from prealign.errors import ConfigError
from prealign.harden.perturb import BatchLayout
from prealign.harden.surgeon import Surgeon
from prealign.objectives.batch import Loss, TokenBatch
from prealign.posttrain.rollouts import number_of


@dataclass(frozen=True, kw_only=True)
class UnderSurgeon:
    """Has parts of steps computed under an attack on their own loss; for `Phase.around`.

    Each packed row is one example, and all of it but padding is attacked, tags too.
    """

    surgeon: Surgeon = field(default_factory=Surgeon)
    share: float = 1.0
    """Of the parts, those that are attacked: which ones is a function of their ids."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share={self.share}: expected a share in [0, 1]")
        if self.surgeon.positions != "all":
            raise ConfigError(
                f"surgeon.positions={self.surgeon.positions!r}: packed rows have no prompts; use "
                "all"
            )

    @contextlib.contextmanager
    def __call__(
        self, model: PreTrainedModel, batch: TokenBatch, loss: Callable[[], Loss]
    ) -> Iterator[None]:
        """Attack the loss of a batch, and let the model be perturbed so inside."""
        name = number_of(self.surgeon.seed, "part", batch.ids_BL.tolist())
        if name / 2**63 >= self.share:
            yield
            return

        def aim() -> Tensor:
            found = loss()
            return found.value * found.weight

        real_BL = batch.text_BL | batch.tag_BL | batch.end_BL
        perturbation = self.surgeon(model, aim, BatchLayout(batch.ids_BL, real_BL))
        with perturbation.applied(with_gradient_only=True):
            yield
