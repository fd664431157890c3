"""vLLM in the place of our sampler, its weights following those that are trained.

    writer = open_vllm(model, vocabulary, folder, policy="stay")
    stage = Stage(..., writer=writer)

The engine runs in this process, on one device. At each call it gets the model's weights as they are
then, and forgets what it has cached of prompts. The guard is inside of it (`prealign.guard.vllm`),
and what comes out goes through the gate, id by id. Samples are not those of `sample`, which has its
own random numbers, but for a temperature of 0. Interfaces as of vLLM 0.32 and 0.33.
"""

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor, nn
from transformers import PreTrainedModel

from prealign.errors import ConfigError, DataError, MissingDependency
from prealign.guard.engine import gate_stream
from prealign.guard.table import Table
from prealign.guard.vllm_settings import (
    MODEL_VARIABLE,
    POLICY_VARIABLE,
    REQUEST_KEY,
    check_config,
    policies_from,
)
from prealign.models.files import save_model
from prealign.models.sample import Ids, Sampled, Sampling
from prealign.posttrain.rollouts import TAGS_TO_SPARE
from prealign.tokens.vocabulary import Vocabulary

try:
    from vllm import LLM, SamplingParams
except ImportError:
    LLM = SamplingParams = None

SEEDS = 1 << 63
IN_PROCESS = "VLLM_ENABLE_V1_MULTIPROCESSING"


class Engine(Protocol):
    """vLLM's `LLM`; only what is used here."""

    def generate(self, prompts: Any, sampling_params: Any, *, use_tqdm: bool) -> list[Any]:
        """Return a request's outputs, in order."""

    def collective_rpc(self, method: str, *, kwargs: dict[str, Any]) -> list[Any]:
        """Call a method of the workers."""

    def reset_prefix_cache(self) -> Any:
        """Forget prompts that were read."""


class VllmSampler:
    """What `open_vllm` returns: a `prealign.posttrain.rollouts.Writer`.

    Args:
        engine: Guarded by the table's first policy.
        make_params: vLLM's `SamplingParams`.
        table: What may be written.
        room: Tokens of a prompt and what is written behind it.
    """

    def __init__(
        self, engine: Engine, make_params: Callable[..., Any], table: Table, room: int
    ) -> None:
        self.engine, self.make_params = engine, make_params
        self.table, self.room = table, room

    @property
    def name(self) -> str:
        """For a run's identity."""
        return f"vllm: {self.table.policies[0].name}"

    def __call__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        settings: Sampling,
        *,
        seeds: Sequence[int],
        vocabulary: Ids,
    ) -> list[Sampled]:
        """Return one sample per prompt, in order, written with the model's weights.

        Args:
            model: A model like the engine's, without adapters.
            prompts: Ids, one at least each.
            settings: How ids are chosen and when a sample stops; no least number of text tokens.
            seeds: One per prompt.
            vocabulary: Tells text, end of text and tags apart.

        Raises:
            ConfigError: The settings are none that vLLM has, or the model has adapters.
            DataError: A prompt leaves no room to write.
            GuardError: The engine wrote what the table forbids.
        """
        if settings.min_text_tokens:
            raise ConfigError(
                f"sampling.min_text_tokens={settings.min_text_tokens}: vLLM behind a guard has no "
                "such thing; use 0"
            )
        longest = max(map(len, prompts), default=0)
        if longest >= self.room:
            raise DataError(
                f"a prompt has {longest} tokens; the engine's context is {self.room}, and one must "
                "be left to write in"
            )
        kwargs = {"weights_iterator": _weights(model)}
        self.engine.collective_rpc("reload_weights", kwargs=kwargs)
        self.engine.reset_prefix_cache()
        policy = self.table.policies[0].name
        most = settings.max_text_tokens + TAGS_TO_SPARE
        params = [
            self.make_params(
                temperature=settings.temperature, top_p=settings.top_p, seed=seed % SEEDS,
                max_tokens=min(most, self.room - len(prompt)), detokenize=False,
                extra_args={REQUEST_KEY: policy},
            )
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]  # fmt: skip
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        done = self.engine.generate(asked, params, use_tqdm=False)
        return [
            self._sampled(tuple(prompt), tuple(one.outputs[0].token_ids), settings, vocabulary)
            for prompt, one in zip(prompts, done, strict=True)
        ]

    def _sampled(
        self, prompt: tuple[int, ...], ids: tuple[int, ...], settings: Sampling, vocabulary: Ids
    ) -> Sampled:
        """Return what counts of an engine's ids, which went through the gate."""
        kept = list[int]()
        text_tokens = 0
        stopped: Literal["end", "budget", "room"] = "room"
        for token in gate_stream(self.table, 0, prompt, ids):
            if token == vocabulary.end_id:
                stopped = "end"
                break
            kept.append(token)
            text_tokens += token < vocabulary.text_size
            if text_tokens >= settings.max_text_tokens:
                stopped = "budget"
                break
        return Sampled(tuple(kept), prompt, stopped)


def open_vllm(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    folder: Path,
    *,
    policy: str = "stay",
    room: int | None = None,
    **options: Any,
) -> VllmSampler:
    """Return a vLLM engine for a model, as a sampler.

    Args:
        model: Saved once, for the engine to begin with.
        vocabulary: The model's.
        folder: Where it is saved.
        policy: What may be written: a name as in `PREALIGN_GUARD`, such as `stay` or `lock ai`.
        room: Tokens of a prompt and what is written behind it; None: the model's context.
        options: For vLLM's `LLM`, such as `gpu_memory_utilization`.

    Raises:
        MissingDependency: vLLM is not installed.
        ConfigError: There is no such policy, or vLLM was told to run in a process of its own.
        GuardError: The options would let ids pass the guard by.
    """
    if os.environ.setdefault(IN_PROCESS, "0") != "0":
        raise ConfigError(
            f"{IN_PROCESS}={os.environ[IN_PROCESS]}: the engine must run in this process to be "
            "given weights; set it to 0, or leave it unset"
        )
    if LLM is None:
        raise MissingDependency("rollouts by vLLM need it: pip install vllm (0.32 or later)")
    table = policies_from(policy, vocabulary)
    save_model(folder, _untied(model), vocabulary, card="# Where a vLLM engine began\n")
    os.environ[MODEL_VARIABLE], os.environ[POLICY_VARIABLE] = str(folder), policy
    room = room or int(model.config.max_position_embeddings)
    engine = LLM(
        str(folder), skip_tokenizer_init=True, max_model_len=room,
        logprobs_mode="processed_logprobs", logits_processors=["prealign.guard.vllm:ModeGuard"],
        **options,
    )  # fmt: skip
    check_config(engine.llm_engine.vllm_config)
    return VllmSampler(engine, SamplingParams, table, room)


def _untied(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model with an output layer of its own weights.

    One that is tied to the embedding stays as it was when vLLM is given new weights.
    """
    if not model.config.tie_word_embeddings:
        return model
    apart: Any = copy.deepcopy(model)
    apart.config.tie_word_embeddings = False
    head = apart.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())
    return apart  # type: ignore[no-any-return]


def _weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and weights as a checkpoint has them."""
    found = dict(model.named_parameters(remove_duplicate=False))
    adapted = next((name for name in found if "lora_" in name), None)
    if adapted is not None:
        raise ConfigError(
            f"{adapted}: vLLM is given whole weights, and this model has adapters; train all "
            "weights (lora=None), or write rollouts without vLLM"
        )
    return ((name, weight.detach()) for name, weight in found.items())
