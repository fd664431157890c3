"""A saved model: a folder that transformers loads, with the scheme that its tags belong to.

config.json, generation_config.json, model.safetensors    transformers' own
tokenizer.json, tokenizer_config.json                     the text tokenizer: it knows no tag
scheme.json                                               modes and tags; ids follow from it
guard.json                                                the policy it is served under, if any
README.md                                                 the model card
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.utils import logging

from prealign.errors import DataError
from prealign.models.card import use_section
from prealign.runs import replace_folder, write_atomic
from prealign.tokens.vocabulary import Vocabulary, load_vocabulary

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
"""Files of these kinds can run code when they are read."""


class LoadedModel(NamedTuple):
    """A model and the vocabulary that its ids mean."""

    model: PreTrainedModel
    vocabulary: Vocabulary


def save_model(
    folder: Path,
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    *,
    card: str,
    guard: Mapping[str, Any] | None = None,
    policies: Mapping[str, str] | None = None,
) -> None:
    """Write the model's folder; a reader sees the old one, for an instant none, or the new one.

    Args:
        folder: Replaced if it is there.
        model: Saved as safetensors in the type that its weights have.
        vocabulary: Its size must be that of the model.
        card: The model card, in Markdown; how to use the ids is added.
        guard: The policy that the model is to be served under, as JSON data.
        policies: For the card: policies that it can be served under, with the guard's fingerprint.

    Raises:
        DataError: Model and vocabulary have different sizes.
    """
    _check_rows(model, vocabulary, "the model")
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        _write(part, model, vocabulary)
        write_atomic(part / "README.md", card.rstrip() + "\n" + use_section(vocabulary, policies))
        if guard is not None:
            policy = json.dumps(guard, indent=1, allow_nan=False)
            write_atomic(part / "guard.json", policy + "\n")
        replace_folder(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def load_model(folder: Path, *, dtype: torch.dtype | None = None) -> LoadedModel:
    """Return the model in `folder`, in evaluation mode on the CPU, and its vocabulary.

    Args:
        folder: As `save_model` wrote it.
        dtype: Of the weights; None: as saved.

    Raises:
        DataError: There is no scheme, the weights are pickled or missing, or model and
            vocabulary have different sizes.
    """
    if not (folder / "scheme.json").is_file():
        raise DataError(
            f"{folder}: has no scheme.json, so nothing says what its tag ids mean; "
            "give a folder that save_model wrote"
        )
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED)
    if pickled:
        raise DataError(
            f"{folder}: {pickled[0]} may be pickled, and could run code when read; "
            "only safetensors are loaded: convert it, or delete it"
        )
    if not any(folder.glob("*.safetensors")):
        raise DataError(f"{folder}: has no weights (*.safetensors)")
    vocabulary = load_vocabulary(folder)
    with no_progress_bar():
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype or "auto",
            local_files_only=True,
            use_safetensors=True,
            attn_implementation="sdpa",
        )
    _check_rows(model, vocabulary, str(folder))
    return LoadedModel(model.eval(), vocabulary)


def _write(part: Path, model: PreTrainedModel, vocabulary: Vocabulary) -> None:
    """Write all but the card and the guard's policy."""
    with no_progress_bar():
        model.save_pretrained(part)
    vocabulary.save(part)
    end, inert = vocabulary.end_id, vocabulary.inert_id
    generation: Any = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": inert}
    GenerationConfig.from_dict(generation).save_pretrained(part)
    config = json.loads((part / "config.json").read_text()) | {
        "bos_token_id": end, "eos_token_id": end,
    }  # fmt: skip
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": model.config.max_position_embeddings,
    }
    write_atomic(part / "config.json", json.dumps(config, indent=2) + "\n")
    write_atomic(part / "tokenizer_config.json", json.dumps(tokenizer, indent=2) + "\n")


def _check_rows(model: Any, vocabulary: Vocabulary, where: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if rows != vocabulary.size:
        raise DataError(
            f"{where}: the model has {rows} rows, the vocabulary {vocabulary.size} ids; they "
            "belong to different models, or the model lacks its tags (models.resize.add_tags)"
        )


@contextlib.contextmanager
def no_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing a bar for a second's work."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
