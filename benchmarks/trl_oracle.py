"""TRL's own losses on tensors of ours: its trainers' loss methods, called without a trainer.

`GRPOTrainer._compute_loss` and its like read a handful of attributes of `self`, which a plain
object provides; the log-probabilities are handed in. So what is compared with is the very code
that trains in TRL, not a copy of its formula.
"""

import warnings
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import trl
    from trl import DPOTrainer, GRPOTrainer, RLOOTrainer
    from trl.experimental.sdft.loss_utils import compute_topk_self_distillation_loss
    from trl.trainer.utils import nanstd

VERSION = trl.__version__


class Accelerator:
    """One process."""

    num_processes = 1
    process_index = 0
    device = torch.device("cpu")

    def gather(self, x: Tensor) -> Tensor:
        """Return what one process has."""
        return x

    gather_for_metrics = gather

    def reduce(self, x: Tensor, reduction: str = "sum") -> Tensor:
        """Return what one process has."""
        return x


def _trainer(**own: Any) -> Any:
    common = {
        "model": SimpleNamespace(training=True),
        "accelerator": Accelerator(),
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
        "aux_loss_enabled": False,
    }
    return SimpleNamespace(**common | own)


def _logp_inputs(mask_BL: Tensor) -> dict[str, Tensor]:
    ids = torch.zeros(mask_BL.shape, dtype=torch.long)
    return {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones_like(ids[:, :1]),
        "completion_ids": ids,
        "completion_mask": mask_BL.long(),
    }


def grpo_loss(
    logp_BL: Tensor, old_BL: Tensor, ref_BL: Tensor, mask_BL: Tensor, advantage_B: Tensor,
    settings: dict[str, Any],
) -> Tensor:  # fmt: skip
    """Return TRL's loss; settings: loss_type, ratio, beta, clip_low, clip_high, max_tokens."""
    entropies = torch.zeros_like(logp_BL)
    stub = _trainer(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logp_BL, entropies, None),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=settings["ratio"],
        beta=settings["beta"],
        loss_type=settings["loss_type"],
        epsilon_low=settings["clip_low"],
        epsilon_high=settings["clip_high"],
        max_completion_length=settings["max_tokens"],
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
    )
    inputs = _logp_inputs(mask_BL) | {
        "advantages": advantage_B,
        "old_per_token_logps": old_BL,
        "ref_per_token_logps": ref_BL,
        "num_items_in_batch": mask_BL.sum(),
    }
    return GRPOTrainer._compute_loss(stub, None, inputs)


def rloo_loss(
    logp_BL: Tensor, old_BL: Tensor, mask_BL: Tensor, advantage_B: Tensor, settings: dict[str, Any]
) -> Tensor:
    """Return TRL's RLOO loss: one ratio of a whole completion, of the sum of its tokens."""
    entropies = torch.zeros_like(logp_BL)
    stub = _trainer(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logp_BL, entropies, None),
        epsilon_low=settings["clip_low"],
        epsilon_high=settings["clip_high"],
    )
    inputs = _logp_inputs(mask_BL) | {
        "advantages": advantage_B,
        "old_logps": (old_BL * mask_BL).sum(1),
    }
    return RLOOTrainer._compute_loss(stub, None, inputs)


def dpo_loss(logp_BL: Tensor, ref_BL: Tensor, mask_BL: Tensor, beta: float, nll: float) -> Tensor:
    """Return TRL's DPO loss; chosen completions are the first half of the rows.

    With `nll`, so much of its `sft` loss besides.
    """
    masked = logp_BL * mask_BL
    zeros = torch.zeros_like(logp_BL)
    outputs = SimpleNamespace(
        log_probs=masked, entropy=zeros, mean_logits=zeros, is_top1=torch.zeros_like(mask_BL)
    )
    stub = _trainer(
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid", "sft"],
        loss_weights=[1.0, nll],
        beta=beta,
        label_smoothing=0.0,
        use_weighting=False,
        _total_train_tokens=0,
        _tp_size=1,
    )
    whole = torch.cat([torch.zeros_like(mask_BL[:, :1]), mask_BL], dim=1).long()
    chosen, rejected = (ref_BL * mask_BL).sum(1).chunk(2)
    inputs = {
        "input_ids": torch.zeros_like(whole),
        "attention_mask": torch.ones_like(whole),
        "completion_mask": whole,
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    return DPOTrainer._compute_loss(stub, lambda **k: outputs, inputs, False)


def distillation_terms(
    student_NV: Tensor, teacher_NV: Tensor, *, top: int, forward: bool, tail: bool
) -> Tensor:
    """Return TRL's divergence at each place, over the student's likeliest ids."""
    return compute_topk_self_distillation_loss(
        student_NV,
        teacher_NV,
        distillation_topk=top,
        distillation_alpha=0.0 if forward else 1.0,
        distillation_add_tail=tail,
    )


def group_advantages(rewards: Tensor, group_size: int, scale: str) -> Tensor:
    """Return advantages from rewards, NaN where there is none.

    These lines stand in the middle of a long method of TRL's, so here its formula is repeated
    around its `nanstd`.
    """
    grouped = rewards.view(-1, group_size)
    found = grouped - grouped.nanmean(dim=1, keepdim=True)
    if scale == "group":
        found = found / (nanstd(grouped, dim=1)[:, None] + 1e-4)
    elif scale == "batch":
        found = found / (nanstd(rewards) + 1e-4)
    return found.nan_to_num(nan=0.0).view(-1)
