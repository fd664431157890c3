"""Cut a mode out of a model: its tags leave the scheme, and their rows leave the weights.

Behind a lock on another mode a denied tag has probability zero; here it does not exist. No bug of a
sampler, engine or policy can write it. The text tokenizer stays as it is, text keeps its ids, and
the ids of the tags behind the cut move up. What the model has learnt of the mode's text is not
touched: this is no unlearning.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prealign.errors import ConfigError, DataError
from prealign.models.card import USE_SECTION
from prealign.models.files import LoadedModel, load_model, save_model
from prealign.models.resize import vocabulary_weights
from prealign.text.scheme import Scheme
from prealign.tokens.vocabulary import Vocabulary

NOTE = """
## Without {mode}

The rows of {cut} were cut out of the embedding and the output layer: no id of this
model stands for them. They were those of mode `{mode}` of scheme `{scheme}`, and of the modes
inside it. Made by `prealign guard excise`.
"""
PROBE_TOKENS = 32
TOLERANCE = 1e-3
"""Of logits, relative to the largest: another width of the last product may round otherwise."""


def excise_folder(source: Path, mode: str, out: Path) -> LoadedModel:
    """Write a saved model without a mode and those inside it into a new folder; return it.

    The old guard.json is not taken over: its policy is for the old scheme.

    Raises:
        ConfigError: `out` is there already, or no mode would be left.
        DataError: `source` holds no saved model, or `excise` refuses it.
    """
    if out.exists():
        raise ConfigError(f"{out}: is there already; give a new folder")
    loaded = load_model(source)
    scheme = loaded.vocabulary.scheme
    cut = excise(loaded, mode)
    gone = [tag for tag in scheme.tags if tag not in cut.vocabulary.tag_ids]
    old = (source / "README.md").read_text() if (source / "README.md").is_file() else ""
    note = NOTE.format(mode=mode, scheme=scheme.name, cut=", ".join(f"`{tag}`" for tag in gone))
    save_model(out, cut.model, cut.vocabulary, card=old.partition(USE_SECTION)[0].rstrip() + note)
    return cut


def without_mode(scheme: Scheme, mode: str) -> Scheme:
    """Return the scheme without a mode and those inside it.

    Raises:
        DataError: The scheme has no such mode.
        ConfigError: No mode would be left.
    """
    scheme.mode(mode)
    left = tuple(one for one in scheme.modes if mode not in scheme.path(one.name))
    if not left:
        raise ConfigError(
            f"excise: scheme {scheme.name!r} would have no mode left without {mode!r}; "
            "for a model without tags, none need be there in training"
        )
    return Scheme(name=f"{scheme.name} without {mode}", modes=left)


def kept_ids(old: Vocabulary, new: Vocabulary) -> Tensor:
    """Return, for each id of the new vocabulary, which id it was in the old one: int64, [V]."""
    tags = [old.tag_ids[tag] for tag in new.scheme.tags]
    return torch.tensor([*range(old.text_size + 1), *tags, old.inert_id])


@torch.no_grad()
def excise(loaded: LoadedModel, mode: str) -> LoadedModel:
    """Return the model without a mode and those inside it; the given model itself is changed.

    On all that is kept it computes the same: it is tried on a probe before it is returned. Serve
    it under `lock` for the mode that is left.

    Args:
        loaded: As `load_model` returns it.
        mode: Its name in the scheme.

    Raises:
        DataError: The scheme has no such mode, or the model's logits are not those of before: it
            has weights per id beyond embedding and output layer.
        ConfigError: No mode would be left.
    """
    model: Any = loaded.model
    old = loaded.vocabulary
    new = Vocabulary(old.tokenizer, without_mode(old.scheme, mode))
    kept_V = kept_ids(old, new)
    model.eval()
    probe_BL = _probe(model, new)
    before_BLV = model(input_ids=kept_V[probe_BL].to(model.device)).logits[..., kept_V]
    weights = [weight_VD[kept_V].clone() for weight_VD in vocabulary_weights(model)]
    head = model.get_output_embeddings()
    bias_V = _bias(head)
    kept_bias_V = None if bias_V is None else bias_V[kept_V].clone()
    with torch.random.fork_rng(devices=[]):  # resizing may draw rows
        model.resize_token_embeddings(new.size, mean_resizing=False)
    for weight_VD, kept_VD in zip(vocabulary_weights(model), weights, strict=True):
        weight_VD.copy_(kept_VD)
    bias_V = _bias(model.get_output_embeddings())
    if bias_V is not None and kept_bias_V is not None:
        bias_V.copy_(kept_bias_V)
    after_BLV = model(input_ids=probe_BL.to(model.device)).logits
    _check_same(before_BLV, after_BLV, mode)
    return LoadedModel(model, new)


def _probe(model: Any, vocabulary: Vocabulary) -> Tensor:
    """Return ids that hold every id but those of text, and some of these, [1, L]."""
    last = range(vocabulary.text_size, vocabulary.size)
    step = max(1, vocabulary.text_size // PROBE_TOKENS)
    ids = [*last, *range(0, vocabulary.text_size, step)]
    return torch.tensor([ids[: model.config.max_position_embeddings]])


def _bias(head: nn.Module | None) -> Tensor | None:
    return getattr(head, "bias", None)


def _check_same(before_BLV: Tensor, after_BLV: Tensor, mode: str) -> None:
    if before_BLV.shape == after_BLV.shape:
        largest = float(before_BLV.abs().max())
        error = float((before_BLV - after_BLV).abs().max())
        if error <= TOLERANCE * max(largest, 1.0):
            return
    raise DataError(
        f"excise {mode!r}: the logits of a probe are not those of before; the model has weights "
        "per id beyond its embedding and output layer, and cannot be cut"
    )
