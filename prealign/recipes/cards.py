"""Cards of models from what is known: the run that trained them, the guard that they may have."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import safe_open

from prealign.corpora.card.facts import public
from prealign.errors import ConfigError, DataError
from prealign.guard.policy import POLICIES, named
from prealign.guard.table import table_of
from prealign.hub.push import check_repo
from prealign.hub.push import push as push_folder
from prealign.models.card import Card, Training, read_card, results_table, use_section
from prealign.models.files import PICKLED
from prealign.runs import RunFolder, read_run, write_atomic
from prealign.tokens.vocabulary import Vocabulary, load_vocabulary

REPLACED = ("*.safetensors", "*.safetensors.index.json")
STAGES = ("", "world")
"""Folders of a run that may hold the metrics of the training that its model comes from."""


def policies_of(vocabulary: Vocabulary) -> dict[str, str]:
    """Return the policies that a scheme allows, with the fingerprint of the guard of each."""
    found = {}
    for name in POLICIES:
        modes = [None] if name in ("free", "stay") else list(vocabulary.scheme.by_name)
        for mode in modes:
            try:
                policy = named(name, vocabulary.scheme, mode)
                found[policy.name] = table_of(vocabulary, policy).fingerprint
            except ConfigError:  # one that this scheme can get stuck in
                continue
    return found


def trained_card(title: str, lead: str, training: Training) -> str:
    """Return the card of a model that a recipe has just trained, for `save_model`."""
    training = replace(training, settings=public(training.settings))
    card = Card(title=title, lead=lead).with_section("Training", training.markdown)
    return str(card.with_licence(None))


def write_card(
    model: Path,
    *,
    run: Path | None = None,
    title: str | None = None,
    licence: str | None = None,
    base_model: str | None = None,
) -> Card:
    """Write the card of a saved model anew and return it; sections that we do not make stay.

    Args:
        model: A folder that `save_model` wrote.
        run: The run folder that it comes from; None: the one that it lies in, if any.
        title: None: as it is.
        licence: None: as it is.
        base_model: What it was trained from, on the hub; None: as it is.

    Raises:
        DataError: There is no saved model, or its card is malformed.
        RunError: `run` is no run folder.
    """
    vocabulary = load_vocabulary(model)
    file = model / "README.md"
    card = read_card(file) or Card(title=model.resolve().name)
    if title is not None:
        card = Card(title=title, lead=card.lead, front=card.front, sections=card.sections)
    found = read_run(run) if run is not None else _run_around(model)
    if found is not None:
        known = any(name == "Training" for name, _ in card.sections)
        if run is not None or not known:
            card = card.with_section("Training", training_of(found, model).markdown)
        card = card.with_section("Results", results_table(_results(found)))
    card = card.with_front(base_model=base_model).with_licence(licence)
    write_atomic(file, str(card).rstrip() + "\n" + use_section(vocabulary, policies_of(vocabulary)))
    return card


def send_model(model: Path, repo: str, card: Card, *, public: bool = False) -> str:
    """Upload a saved model and return where it can be seen.

    Raises:
        ConfigError: Its licence is not stated, or `repo` is not OWNER/NAME; nothing is sent.
        DataError: It has files that can run code, or no weights; nothing is sent.
        RunError: The hub cannot be reached, or refuses.
    """
    check_repo(repo)
    if card.licence is None:
        raise ConfigError(
            f"nothing was sent: the licence of {model} is not stated; say it with --licence"
        )
    pickled = sorted(
        file.relative_to(model).as_posix() for file in model.rglob("*") if file.suffix in PICKLED
    )
    if pickled or not any(model.glob("*.safetensors")):
        what = f"{pickled[0]} may be pickled" if pickled else "there are no *.safetensors"
        raise DataError(f"nothing was sent: {model}: {what}; send weights as safetensors alone")
    return push_folder(model, repo, kind="model", replaces=REPLACED, public=public)


def training_of(run: RunFolder, model: Path) -> Training:
    """Return what a run folder says of the training of its model."""
    rows: list[dict[str, Any]] = []
    for stage in STAGES:
        rows = rows or RunFolder(run.path / stage).rows("metrics")
    last: Mapping[str, Any] = rows[-1] if rows else {}
    return Training(
        settings=public(run.config.get("settings")),
        text_tokens=last.get("text_tokens"),
        steps=last.get("step"),
        parameters=parameters_of(model),
    )


def parameters_of(model: Path) -> int | None:
    """Return how many numbers the safetensors of a folder hold, weights that are shared once."""
    total = 0
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                count = 1
                for size in tensors.get_slice(name).get_shape():
                    count *= size
                total += count
    return total or None


def _run_around(model: Path) -> RunFolder | None:
    """Return the run folder that a model lies in, if it is one of ours."""
    config = model.resolve().parent / "config.json"
    if not config.is_file():
        return None
    try:
        data = json.loads(config.read_bytes())
    except ValueError as error:
        raise DataError(f"{config}: is no JSON ({error})") from error
    ours = isinstance(data, dict) and "settings" in data
    return RunFolder(config.parent) if ours else None


def _results(run: RunFolder) -> list[dict[str, Any]]:
    """Return the rows of the end; all of them where none says that it is."""
    rows = run.rows("evals")
    return [row for row in rows if row.get("final")] or rows
