"""What a folder of shards says of itself: headers, settings, rejects, provenance of synthesis.

What is shown to all is cleaned of what belongs to one machine: folders, and secrets in addresses.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pyarrow.parquet as pq

from prealign.corpora.rejects import SAMPLES
from prealign.errors import DataError
from prealign.runs import read_jsonl
from prealign.text.scheme import GOOD_BAD, TWO_MODES, Scheme, scheme_from_json
from prealign.text.shards import SCORE, read_header

KNOWN_SCHEMES = {scheme.name: scheme for scheme in (GOOD_BAD, TWO_MODES)}
SECRET = re.compile(
    r"(.*[_-])?(api_?key|token|secret|password|passwd|authorization)", re.IGNORECASE
)
USER = re.compile(r"(?<=://)[^/@\s]*@")
"""Who and with what password, in an address."""
FOLDER = re.compile(r"(/|~/|[A-Za-z]:[\\/]|\\\\)[^\n]{0,1000}")
PUBLIC = ("date", "python", "versions", "commit")
"""What of the environment is no business of one machine alone."""


@dataclass
class Synthesis:
    """Where synthesised documents come from."""

    items: int = 0
    unfinished: int = 0
    """Items that have come to an end, in parts that are not written."""
    outcomes: Counter[str] = field(default_factory=Counter)
    makers: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Items by step and model."""
    prompts: int = 0
    digest: str = ""
    """SHA-256 of all prompts' fingerprints in order, one a line."""
    tokens: int = 0
    seed: int | None = None
    """Of the run; each item's seed follows from it and the item's id."""
    step_settings: str | None = None
    """The fingerprint of the step's settings, its prompts' templates among them."""


@dataclass
class Left:
    """What was left out: counts by stage and reason, with the first ones of each."""

    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    samples: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    recorded: bool = False
    """Whether what made the folder has kept count."""

    def add(self, stage: str, reason: str, sample: str | None = None, count: int = 1) -> None:
        """Count some."""
        key = (stage, reason)
        self.counts[key] = self.counts.get(key, 0) + count
        kept = self.samples.setdefault(key, [])
        if sample is not None and len(kept) < SAMPLES:
            kept.append(sample)


@dataclass
class Facts:
    """What is known of a folder without its documents."""

    shards: list[Path]
    header: dict[str, Any]
    """Of all shards together, cleaned: what exported files say of themselves."""
    scores: list[str]
    """Scorers of which there are scores, sorted."""
    scheme: Scheme | None
    settings: Any
    """Of the run that made it, cleaned; None if it is not known."""
    environment: dict[str, Any]
    left: Left
    synthesis: Synthesis | None


def facts_of(folder: Path) -> Facts:
    """Return what is known of a folder of shards.

    Raises:
        DataError: It holds no shards, an annotation or a step of cleaning that is not finished,
            shards that were scored by different versions of one scorer, or shards of different
            schemes.
    """
    shards = sorted(folder.glob("*.parquet"))
    if not shards:
        raise DataError(
            f"{folder}: holds no shards (*.parquet); give a folder that `prealign annotate`, a "
            "recipe or a synthesis wrote"
        )
    config = _json(folder / "config.json") or {}
    done = _json(folder / "_done.json")
    if config.get("recipe") == "annotate" and done is None:
        raise DataError(
            f"{folder}: its annotation is not finished (no _done.json); run it to its end"
        )
    if config.get("recipe") == "refine" and not (folder / "summary.json").is_file():
        raise DataError(f"{folder}: is not finished (no summary.json); run its step to its end")
    header, scheme, scores = _headers(shards)
    left = Left(recorded=done is not None)
    _add_done(left, done or {})
    for place in (folder, *([folder.parent] if folder.name == "annotated" else [])):
        _add_rejects(left, _json(place / "rejects.json") or {})
        _add_rejects(left, (_json(place / "corpus.json") or {}).get("rejects") or {})
    environment = config.get("environment", {})
    return Facts(
        shards=shards,
        header=header,
        scores=scores,
        scheme=scheme,
        settings=public(config["settings"]) if "settings" in config else None,
        environment={key: environment[key] for key in PUBLIC if key in environment},
        left=left,
        synthesis=_synthesis(folder, shards, config, left),
    )


def provenance_lines(shards: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield the line of each item of synthesis, in order; none if it was none."""
    for shard in shards:
        file = shard.with_suffix(".jsonl")
        if file.is_file():
            yield from read_jsonl(file)


def public(value: Any, key: str = "") -> Any:
    """Return settings without what belongs to one machine.

    Of a path that begins at a root only its last part stays, an address loses user and password,
    and a value whose name, or the end of it (`hf_token`), says that it is a secret is withheld.
    """
    if isinstance(value, Mapping):
        return {str(name): public(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [public(item, key) for item in value]
    if not isinstance(value, str):
        return value
    if SECRET.fullmatch(key):
        return "(withheld)"
    if FOLDER.fullmatch(value):
        kind = PurePosixPath if value[0] in "/~" else PureWindowsPath
        return f".../{kind(value).name}"
    return USER.sub("", value)


def _headers(shards: Sequence[Path]) -> tuple[dict[str, Any], Scheme | None, list[str]]:
    """Return one header for all shards, their scheme, and the names of their scores."""
    scorers: dict[str, Any] = {}
    others: dict[str, list[Any]] = {name: [] for name in ("segmenter", "tagger", "source")}
    scheme: Scheme | None = None
    scores: set[str] = set()
    for shard in shards:
        header = read_header(shard)
        names = pq.read_schema(shard).names
        scores |= {name.removeprefix(SCORE) for name in names if name.startswith(SCORE)}
        for scorer in header.get("scorers") or ():
            scorer = public(scorer)
            if scorers.setdefault(scorer["name"], scorer) != scorer:
                raise DataError(
                    f"{shard}: was scored by another {scorer['name']!r} than the shards before it, "
                    "and their scores do not compare; annotate all with one"
                )
        own = _scheme(header.get("scheme"), shard)
        if own is not None and scheme not in (None, own):
            raise DataError(
                f"{shard}: is of scheme {own.name!r}, the shards before it of another; "
                "export them apart"
            )
        scheme = own or scheme
        for name, found in others.items():
            value = public(header.get(name))
            if value not in found and len(found) < SAMPLES:
                found.append(value)
    one: dict[str, Any] = {"scorers": [scorers[name] for name in sorted(scorers)]}
    one |= {
        name: found[0] if len(found) == 1 else {"several": found} for name, found in others.items()
    }
    one["scheme"] = scheme.to_json() if scheme else None
    return one, scheme, sorted(scores)


def _scheme(recorded: str | None, shard: Path) -> Scheme | None:
    """Return the scheme of a header: there it is JSON, or the name of one that is known."""
    if recorded is None or recorded in KNOWN_SCHEMES:
        return KNOWN_SCHEMES.get(recorded or "")
    try:
        return scheme_from_json(recorded)
    except DataError as error:
        raise DataError(f"{shard}: {error}") from error


def _add_done(left: Left, done: Mapping[str, Any]) -> None:
    """Add what an annotation could not judge, and what its tagger dropped."""
    for reason, count in done.get("reasons", {}).items():
        left.add("could not be judged", reason, count=count)
    for sample in done.get("samples", ()):
        named = [reason for reason in done.get("reasons", {}) if f": {reason}" in sample]
        if named:
            left.add("could not be judged", max(named, key=len), sample, count=0)
    if done.get("dropped"):
        left.add(
            "dropped by the tagger", "of those that could not be judged", count=done["dropped"]
        )


def _add_rejects(left: Left, rejects: Mapping[str, Any]) -> None:
    """Add what cleaning left out."""
    for reason, count in rejects.get("counts", {}).items():
        left.add("left out in reading", reason, count=count)
        for sample in rejects.get("samples", {}).get(reason, ()):
            left.add("left out in reading", reason, sample, count=0)


def _synthesis(
    folder: Path, shards: Sequence[Path], config: Mapping[str, Any], left: Left
) -> Synthesis | None:
    """Return what the lines beside the shards say; None: nobody has synthesised the documents."""
    found, digest = Synthesis(), hashlib.sha256()
    for row in provenance_lines(shards):
        if row["outcome"] != "written":
            by = row.get("refined_by")
            stage = f"left out by {by}" if by else f"{row['outcome']} in synthesis"
            left.add(stage, row["reason"] or "no reason", row["id"])
        maker = _maker(row)
        if maker is None:
            continue
        found.items += 1
        found.outcomes[row["outcome"]] += 1
        found.makers[maker] += 1
        found.prompts += len(row["prompts"])
        digest.update("".join(f"{prompt}\n" for prompt in row["prompts"]).encode())
        found.tokens += row["tokens"]
    if not found.items:
        return None
    found.digest = digest.hexdigest()
    settings = config.get("settings", {})
    found.seed = settings.get("seed")
    if config.get("recipe") == "synthesis" and "step" in settings:
        text = json.dumps(settings["step"], sort_keys=True)
        found.step_settings = hashlib.sha256(text.encode()).hexdigest()[:16]
    journal = folder / "journal.jsonl"
    if journal.is_file():
        with journal.open("rb") as stream:
            found.unfinished = max(0, sum(1 for _ in stream) - found.items)
    return found


def _maker(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the step and the model that wrote a document; None: it was not synthesised.

    A document that was only rated is its own parent, and has as slots what its line said before.
    """
    slots = row.get("slots") or {}
    said = slots if row.get("parent") == row["id"] else row
    return (said["step"], said["model"]) if {"step", "model"} <= said.keys() else None


def _json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if there is no such file."""
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: is no JSON ({error}); write the folder again") from error
    if not isinstance(data, dict):
        raise DataError(f"{path}: is a {type(data).__name__}; expected an object")
    return data
