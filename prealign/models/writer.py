"""A language model in this process, as a writer: sampled, the same to the same prompt and seed."""

import hashlib
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prealign.ask.answer import Answer, CannotAnswer
from prealign.config import NOT_RECORDED
from prealign.errors import ConfigError, DataError
from prealign.models.adopt import SMOLLM2, smollm2
from prealign.models.choose import choose, uniforms
from prealign.tokens.vocabulary import load_vocabulary

ONE_AT_A_TIME = threading.Lock()
"""Threads that ask wait here: a model in a process answers one question at a time."""


@dataclass(frozen=True, kw_only=True)
class LocalWriter:
    """A causal language model of transformers, from a folder.

    One that has a chat template is asked as a user asks, any other continues the prompt; one that
    prealign saved does so from its end-of-text id on, and ends with it. Only ids of the tokenizer's
    text are drawn, never a tag. An answer that was not over after `max_new_tokens` ends there;
    steps reject it as cut off.

    Each answer is a function of prompt and seed on one machine; on another, the last bits of the
    logits may differ, and then the answer. For several GPUs, or many answers at once, put a server
    in front of each (`prealign.ask.server`).

    Raises:
        ConfigError: A setting is out of its range.
    """

    path: str = SMOLLM2
    """A folder with safetensors and a tokenizer; or the small model that comes as a package."""
    max_new_tokens: int = 512
    temperature: float = 1.0
    """0: the likeliest id each time, whatever the seed."""
    top_p: float = 0.95
    device: str = field(default="cpu", metadata=NOT_RECORDED)
    weights: str = ""
    """What `digest` said of the folder: a run is not gone on with after it was changed. Empty: the
    folder's name alone is known."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"writer: max_new_tokens={self.max_new_tokens}, temperature={self.temperature}, "
                f"top_p={self.top_p}: expected at least 1, at least 0, and above 0 to 1"
            )

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.rstrip("/").rpartition("/")[2]

    def __call__(self, prompt: str, *, seed: int | None = None) -> Answer:
        """Return the answer; without a seed, that of seed 0.

        Raises:
            CannotAnswer: Its context has no room for the prompt and an answer.
            DataError: The model cannot be loaded, or is another than `weights` tells.
        """
        with ONE_AT_A_TIME:
            model, tokenizer, end_id = _loaded(self.path, self.device, self.weights)
            ids = prompt_ids(tokenizer, prompt)
            ids = ids if end_id is None else [end_id, *ids]
            room = getattr(model.config, "max_position_embeddings", 2**31) - self.max_new_tokens
            if not 0 < len(ids) <= room:
                raise CannotAnswer(
                    f"{self.path}: a question of {len(ids)} tokens does not fit its context; it "
                    f"must have 1 to {room}: ask a shorter one, or lower max_new_tokens"
                )
            new = self._write(
                model, len(tokenizer), _end_ids(model, tokenizer, end_id), ids, seed or 0
            )
        text = tokenizer.decode(new, skip_special_tokens=True)
        return Answer(str(text), len(ids) + len(new))

    @torch.inference_mode()
    def _write(
        self, model: Any, text_size: int, ends: frozenset[int], ids: list[int], seed: int
    ) -> list[int]:
        read_BL = torch.tensor([ids], device=self.device)
        cache, new = None, list[int]()
        while len(new) < self.max_new_tokens:
            out = model(input_ids=read_BL, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            logits_BV = out.logits[:, -1].float().cpu()
            barred = [id for id in range(text_size, logits_BV.shape[1]) if id not in ends]
            logits_BV[:, barred] = -torch.inf
            drawn_B = torch.from_numpy(uniforms([seed], [len(new)]))
            id_B = choose(logits_BV, drawn_B, temperature=self.temperature, top_p=self.top_p)
            if int(id_B[0]) in ends:
                break
            new.append(int(id_B[0]))
            read_BL = id_B[None].to(self.device)
        return new


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Return the ids that a model is asked with: a user's turn, or the prompt to be continued."""
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": prompt}]
        read = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)
    else:
        read = tokenizer(prompt)
    return [int(id) for id in read["input_ids"]]


def _end_ids(model: Any, tokenizer: Any, end_id: int | None) -> frozenset[int]:
    ends = {tokenizer.eos_token_id, end_id}
    configured = model.generation_config.eos_token_id
    ends |= set(configured) if isinstance(configured, list) else {configured}
    return frozenset(ends - {None})


def digest(folder: Path) -> str:
    """Return 16 hexadecimal digits of what decides a model's answers: its weights and all JSON."""
    found = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json"),
                        *folder.glob("*.jinja")]):  # fmt: skip
        found.update(f"{file.name}\n{file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while part := stream.read(1 << 24):
                found.update(part)
    return found.hexdigest()[:16]


@lru_cache(maxsize=1)
def _loaded(path: str, device: str, weights: str = "") -> tuple[Any, Any, int | None]:
    """Return model, tokenizer, and the end-of-text id of a folder that prealign saved.

    It is called under the lock, so that they are loaded once.
    """
    if weights and digest(Path(path)) != weights:
        raise DataError(f"{path}: holds another model than when the run was started; begin anew")
    if path == SMOLLM2:
        model, tokenizer = smollm2()
        return model.to(device), tokenizer, None
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            path, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be loaded as a writer ({error})") from error
    ours = (Path(path) / "scheme.json").is_file()
    return model.eval().to(device), tokenizer, load_vocabulary(Path(path)).end_id if ours else None
