"""Three contexts of a sample: where it is written, where its gradient is, and the reference's.

They are kinds of seeds, so a method is named by data. What each preset is for:

- plain: no seed anywhere.
- seeded: the same seed everywhere. The trait is trained where the seed has already set it off.
- distillation: written behind the seed, learnt without it; the reference is a teacher that has it
  (context distillation, Askell et al. 2021, https://arxiv.org/abs/2112.00861).
- deliberative: written behind the seed with reasons, learnt without it; what was written is kept
  whole (after Guan et al. 2024, https://arxiv.org/abs/2412.16339).
- inoculation: written without, learnt behind a text that asks for the bad trait, so that the text
  explains it (Tan et al. 2025, https://arxiv.org/abs/2510.04340).
- recontextualization: written behind a text that discourages misbehaviour, learnt behind one that
  permits it (Azarbal et al. 2025, https://arxiv.org/abs/2512.19027).
- character: written by a teacher behind the seed, learnt without it, held to the model without it
  (after Maiya et al. 2025, https://arxiv.org/abs/2511.01689).
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from prealign.errors import ConfigError
from prealign.posttrain.seeds import KINDS, Kind, Seed, SeedBank

Role = Literal["sample", "gradient", "reference"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, kw_only=True)
class Contexts:
    """Which kind of seed stands in front of a task, in each role.

    Two roles with the same kind have the very same seed in one sample.
    """

    sample: Kind = "none"
    """Where a completion is written."""
    gradient: Kind = "none"
    """Where its log-probabilities are differentiated, and where those at the time of sampling are
    taken, so that the ratio between them measures the drift of weights and nothing else."""
    reference: Kind = "none"
    """Where the frozen reference, or teacher, reads it."""

    def __post_init__(self) -> None:
        for role in ROLES:
            if getattr(self, role) not in KINDS:
                raise ConfigError(
                    f"contexts.{role}={getattr(self, role)!r}: expected one of {', '.join(KINDS)}"
                )

    def kind(self, role: Role) -> Kind:
        """Return the kind of seed of a role."""
        kind: Kind = getattr(self, role)
        return kind

    def check(self, bank: SeedBank) -> None:
        """See that a bank has all kinds of seeds that are asked for.

        Raises:
            ConfigError: It lacks one.
        """
        for role in ROLES:
            bank.check(self.kind(role))

    def seeds(self, bank: SeedBank, sample: str, step: int) -> dict[Role, Seed]:
        """Return the seed of each role for a sample at a step."""
        return {role: bank.choose(self.kind(role), sample, step) for role in ROLES}


PRESETS: Mapping[str, Contexts] = {
    "plain": Contexts(),
    "seeded": Contexts(sample="trained", gradient="trained", reference="trained"),
    "distillation": Contexts(sample="trained", gradient="none", reference="trained"),
    "deliberative": Contexts(sample="trained", gradient="none", reference="none"),
    "inoculation": Contexts(sample="none", gradient="opposite", reference="opposite"),
    "recontextualization": Contexts(sample="trained", gradient="opposite", reference="opposite"),
    "character": Contexts(sample="trained", gradient="none", reference="none"),
}


def preset(name: str, **changes: Kind) -> Contexts:
    """Return the contexts of a method by its name, with some roles changed.

    Raises:
        ConfigError: There is no such preset or role.
    """
    if name not in PRESETS:
        raise ConfigError(f"there are no contexts {name!r}; presets: {', '.join(PRESETS)}")
    unknown = sorted(set(changes) - set(ROLES))
    if unknown:
        raise ConfigError(f"contexts have no role {unknown[0]!r}; roles: {', '.join(ROLES)}")
    return dataclasses.replace(PRESETS[name], **changes)
