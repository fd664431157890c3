"""A language model in this process, to be asked by `prealign.score.judge.Judge`."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prealign.ask.answer import Answer, CannotAnswer
from prealign.errors import DataError


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """A causal language model of transformers, from a folder or a hub id, read greedily.

    One that has a chat template is asked as a user asks, any other continues the prompt.
    """

    path: str
    max_new_tokens: int = 8

    @property
    def name(self) -> str:
        """Where the model is from."""
        return self.path

    def __call__(self, prompt: str) -> Answer:
        """Return the answer.

        Raises:
            CannotAnswer: Its context is too short for the prompt.
            DataError: The model cannot be loaded.
        """
        model, tokenizer = _loaded(self.path)
        if tokenizer.chat_template:
            turns = [{"role": "user", "content": prompt}]
            read = tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        else:
            read = tokenizer(prompt, return_tensors="pt")
        ids_BL = read["input_ids"].to(model.device)
        room = model.config.max_position_embeddings - self.max_new_tokens
        if ids_BL.shape[1] > room:
            raise CannotAnswer(
                f"{self.path}: a question of {ids_BL.shape[1]} tokens does not fit its context; "
                f"at most {room} do: judge shorter segments"
            )
        with torch.inference_mode():
            out_BL = model.generate(
                ids_BL,
                attention_mask=torch.ones_like(ids_BL),
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id or 0,
            )
        new = out_BL[0, ids_BL.shape[1] :]
        return Answer(tokenizer.decode(new, skip_special_tokens=True), out_BL.shape[1])


@lru_cache(maxsize=1)
def _loaded(path: str) -> tuple[Any, Any]:
    """Return model and tokenizer; kept, as a worker is given its judge anew with every chunk."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be loaded as a judge ({error})") from error
    return model.eval(), tokenizer
