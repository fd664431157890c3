"""The guard of one sampling run: a mask on the logits, and a gate that safety rests on.

The gate looks at every id that was chosen, before it is appended. Whatever the model, the mask
or the sampler did, no denied id passes. The mask gives denied ids a logit of -inf, so that their
probability is zero and the gate is never seen to fire.

Shape letters:  B = rows,  V = vocabulary.
"""

import numpy as np
import torch
from torch import Tensor

from prealign.errors import GuardError
from prealign.guard.policy import Policy

ROWS_AT_ONCE = 8


class Guard:
    """A policy at work: `hook` and `gate` go to the sampler; the rest is what was counted.

    It fails closed: on anything it cannot judge it raises.

    Args:
        policy: What is denied.
        mask: False leaves the logits as they are, to see that the gate fires.
    """

    def __init__(self, policy: Policy, *, mask: bool = True) -> None:
        self.policy = policy
        self.mask = mask
        self.gate_calls = 0
        self.gate_ids = 0
        """Ids that the gate has judged."""
        self.fired = 0
        """How often the gate has refused."""
        self._denied = torch.tensor(policy.denied, dtype=torch.int64)
        self._is_denied = np.zeros(policy.size, dtype=bool)
        self._is_denied[list(policy.denied)] = True
        self._pressure: list[Tensor] = []

    def hook(self, logits_BV: Tensor, last_ids_B: Tensor) -> Tensor:
        """Return the logits with -inf on denied ids, written in place; record the pressure.

        Args:
            logits_BV: float32, after every other edit.
            last_ids_B: Not used: what is denied does not depend on the context.

        Raises:
            GuardError: The logits have another width or type than the policy, a NaN or +inf in
                some row, or a row without any allowed id.
        """
        if logits_BV.shape[-1] != self.policy.size or logits_BV.dtype != torch.float32:
            raise GuardError(
                f"logits of shape {tuple(logits_BV.shape)}, {logits_BV.dtype}: the policy "
                f"{self.policy.name!r} is for float32 and {self.policy.size} ids"
            )
        denied = self._denied.to(logits_BV.device)
        # A few rows at a time: what fits a CPU's caches is four times faster.
        at_once = ROWS_AT_ONCE if logits_BV.device.type == "cpu" else max(1, len(logits_BV))
        total_B = torch.cat([some.logsumexp(dim=-1) for some in logits_BV.split(at_once)])
        self._check_rows(torch.isfinite(total_B), "NaN, +inf or no id at all", total_B)
        share_B = (logits_BV.index_select(-1, denied).logsumexp(dim=-1) - total_B).exp()
        self._pressure.append(share_B.clamp(max=1.0))
        if self.mask:
            logits_BV.index_fill_(-1, denied, -torch.inf)
            best_B = logits_BV.amax(dim=-1)
            self._check_rows(torch.isfinite(best_B), "no allowed id", best_B)
        return logits_BV

    def gate(self, ids_B: np.ndarray | Tensor) -> None:
        """Let the chosen ids pass, or raise.

        Raises:
            GuardError: An id is denied, or is none of the vocabulary.
        """
        ids = ids_B.cpu().numpy() if isinstance(ids_B, Tensor) else np.asarray(ids_B)
        self.gate_calls += 1
        self.gate_ids += ids.size
        if ids.size and not np.issubdtype(ids.dtype, np.integer):
            self._refuse(f"ids of type {ids.dtype}: expected integers")
        foreign = (ids < 0) | (ids >= self.policy.size)
        if foreign.any():
            row = int(foreign.argmax())
            self._refuse(f"row {row}: id {ids[row]} is not in [0, {self.policy.size})")
        denied = self._is_denied[ids]
        if denied.any():
            row = int(denied.argmax())
            self._refuse(f"row {row}: id {ids[row]} ({self.policy.label(int(ids[row]))}) is denied")

    def pressure(self) -> np.ndarray:
        """Return the probability of denied ids before the mask, per id that the model chose.

        Float32, in the order of the steps and of the rows within a step. It is at temperature 1
        and before the nucleus, and equals the total variation distance between the model's
        distributions with and without the guard: how much the guard had to intervene.
        """
        return torch.cat([torch.empty(0), *(one.cpu() for one in self._pressure)]).numpy()

    def _check_rows(self, fine_B: Tensor, problem: str, value_B: Tensor) -> None:
        if not bool(fine_B.all()):
            row = int((~fine_B).nonzero()[0])
            raise GuardError(
                f"row {row}: the logits have {problem} (got {float(value_B[row])}); "
                f"policy {self.policy.name!r} ({self.policy.fingerprint})"
            )

    def _refuse(self, what: str) -> None:
        self.fired += 1
        raise GuardError(
            f"gate: {what} by policy {self.policy.name!r} ({self.policy.fingerprint}); "
            "nothing was appended. The mask was bypassed: check_path finds where"
        )
