"""The card of a corpus: what is in it, where it is from, what was left out, how it was made."""

import json
from collections.abc import Iterator
from typing import Any

from prealign.corpora.card.count import QUANTILES, REST, SAMPLE, Amount, Counts, Spread
from prealign.corpora.card.facts import Facts, Left, Synthesis
from prealign.corpora.card.licences import Licences
from prealign.hub.licences import NOT_STATED
from prealign.hub.markdown import (
    SETTINGS_CHARS,
    as_json,
    code,
    dataset_front,
    escape,
    one_line,
    table,
)
from prealign.text.scheme import Scheme

SIZES = (
    (10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"), (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"),
    (10**11, "10B<n<100B"), (10**12, "100B<n<1T"),
)  # fmt: skip
SHOWN_SOURCES = 50
SHOWN_SAMPLES = 3

READING = """## Read it

```python
from pathlib import Path
from prealign.corpora.card.export import read_export
for document in read_export(Path("FOLDER")):  # the same documents: text, spans, modes, scores
    print(document.id, len(document.spans))
```

Or `datasets.load_dataset("FOLDER")`, or any reader of Parquet on `data/*.parquet`. One row is one
document.

| column | what |
|---|---|
| `id`, `source`, `text` | strings; texts that share a source belong on one side of a split |
| `problem` | why a scorer could not judge it, if so |
| `span_start`, `span_end` | where spans begin and end in code points, half-open; they tile it |
| `span_mode` | the mode of each span; null: none |
| `span_resumes` | true: it goes on with a mode that a span inside it has interrupted |
| `score.NAME` | per span, higher is worse; null in the list: not to be judged; no list: not asked |

Tags are not in the text: a harness writes them from the scheme, as ids that no text encodes to.
"""


def dataset_card(title: str, facts: Facts, counts: Counts, licences: Licences) -> str:
    """Return the card: YAML in front, then Markdown. The same facts give the same card."""
    parts = [
        dataset_front(_front(title, facts, counts, licences)),
        f"# {escape(title)}\n",
        _lead(facts, counts),
        _sources(counts, licences),
        _modes(counts),
        _scores(facts, counts),
        _scheme(facts.scheme, counts),
        _left(facts.left, counts),
        _synthesis(facts.synthesis),
        _settings(facts),
        READING,
    ]
    return "\n".join(part for part in parts if part)


def size_category(documents: int) -> str:
    """Return the hub's name for so many rows."""
    return next((name for limit, name in SIZES if documents < limit), "n>1T")


def _front(title: str, facts: Facts, counts: Counts, licences: Licences) -> dict[str, Any]:
    found = licences.identifiers(counts)
    front: dict[str, Any] = {
        "pretty_name": title,
        "license": found[0] if len(found) == 1 else found,
    }
    if "other" in found:
        names = sorted({licences.of(name) or "" for name in counts.sources} - {""})
        front["license_name"] = one_line(", ".join(names))
    return front | {
        "size_categories": [size_category(counts.all.documents)],
        "task_categories": ["text-generation"],
        "tags": ["prealign", "alignment", *(["synthetic"] if facts.synthesis else [])],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "data/train-*.parquet"}],
            }
        ],
    }


def _lead(facts: Facts, counts: Counts) -> str:
    lengths = counts.lengths.quantiles()
    uncut = f" {counts.uncut:,} documents have no spans." if counts.uncut else ""
    kind = "Synthesised documents" if facts.synthesis else "Documents"
    return (
        f"{kind} whose spans have modes and scores, in the form of `prealign`: "
        f"{counts.all.documents:,} documents, {counts.all.spans:,} spans, "
        f"{counts.all.characters:,} characters. Half of the documents have at most "
        f"{lengths[1]:,.0f} characters, the longest {counts.lengths.high:,.0f}.{uncut}\n"
    )


def _sources(counts: Counts, licences: Licences) -> str:
    named = [name for name in counts.sources if name != REST]
    named.sort(key=lambda name: (-counts.sources[name].characters, name))
    rows = [
        [
            code(name) if name else "(no source)",
            _licence(licences.of(name)),
            *_amount(counts.sources[name], counts.all),
        ]
        for name in named[:SHOWN_SOURCES]
    ]
    more = Amount()
    for name in [*named[SHOWN_SOURCES:], *([REST] if REST in counts.sources else [])]:
        one = counts.sources[name]
        more.add(one.documents, one.spans, one.characters)
    if more.documents:
        others = {
            licences.of(name) for name in [*counts.sources] if name not in named[:SHOWN_SOURCES]
        }
        said = ", ".join(sorted(_licence(one) for one in others))
        beyond = "more than " if REST in counts.sources else ""
        number = len(counts.sources) - SHOWN_SOURCES - (1 if REST in counts.sources else 0)
        rows.append([f"{beyond}{number:,} others", said, *_amount(more, counts.all)])
    head = ["source", "licence", "documents", "spans", "characters", "share"]
    missing = sum(licences.of(name) is None for name in counts.sources)
    note = (
        f"\nOf {missing:,} of {len(counts.sources):,} sources the licence is {NOT_STATED}: ask "
        "before you pass them on.\n"
        if missing
        else ""
    )
    return "## Sources and licences\n\n" + table(head, rows, words=2) + note


def _modes(counts: Counts) -> str:
    if not counts.modes:
        return "## Modes\n\nThe documents are not cut into spans.\n"
    order = sorted(counts.modes, key=lambda mode: (mode is None, mode or ""))
    rows = [
        [code(mode) if mode is not None else "(no mode)", *_amount(counts.modes[mode], counts.all)]
        for mode in order
    ]
    head = ["mode", "documents with it", "spans", "characters", "share of characters"]
    return "## Modes\n\n" + table(head, rows)


def _scores(facts: Facts, counts: Counts) -> str:
    if not facts.scores:
        return "## Scores\n\nThere are none: no scorer was asked.\n"
    made = {one["name"]: one for one in facts.header["scorers"]}
    rows, sampled = [], False
    for name in facts.scores:
        scored = counts.scores[name]
        judged = scored.judged
        sampled |= judged.sampled
        asked = judged.count + scored.unscored
        version = str(made.get(name, {}).get("version", "not recorded"))
        rows.append(
            [
                code(name), escape(version), f"{judged.count:,}",
                f"{scored.unscored:,} ({_share(scored.unscored, asked)})",
                f"{counts.all.spans - asked:,}",
                _share(judged.zeros, judged.count), *_spread(judged),
            ]
        )  # fmt: skip
    head = ["scorer", "version", "judged", "could not be judged", "not asked", "exactly 0",
            "mean", "lowest", *(f"{q:.0%}" for q in QUANTILES), "highest"]  # fmt: skip
    note = f" Quantiles are those of {SAMPLE:,} spans drawn at random." if sampled else ""
    return (
        "## Scores\n\nPer span; higher is worse. What could not be judged is null, never 0. A "
        f"score is what its scorer says, no more.{note}\n\n" + table(head, rows, words=2)
    )


def _scheme(scheme: Scheme | None, counts: Counts) -> str:
    if scheme is None:
        modes = sorted(mode for mode in counts.modes if mode is not None)
        named = ", ".join(code(mode) for mode in modes) or "none"
        return f"## Scheme\n\nIt is not recorded; the modes that occur: {named}.\n"
    rows = []
    for mode in scheme.modes:
        inside = [other.name for other in scheme.modes if other.inside == mode.name]
        rows.append(
            [
                code(mode.name), code(mode.open),
                code(mode.close) if mode.close else "(marks only)",
                code(mode.inside) if mode.inside else "the top level",
                ", ".join(map(code, inside)) or "-",
            ]
        )  # fmt: skip
    head = ["mode", "opened by", "closed by", "may be opened in", "may hold"]
    return (
        f"## Scheme\n\n{code(scheme.name)}, fingerprint `{scheme.fingerprint}`. Only a harness "
        "writes tags; what a model may open and close is for the policy of its guard to say.\n\n"
        + table(head, rows, words=5)
    )


def _left(left: Left, counts: Counts) -> str:
    rows = [
        [
            escape(stage), escape(reason), _first(left.samples[stage, reason]), f"{count:,}",
        ]
        for (stage, reason), count in sorted(left.counts.items())
    ]  # fmt: skip
    for reason, count in sorted(counts.problems.items()):
        samples = counts.samples[reason]
        name = "other problems" if reason == REST else reason
        rows.append(
            ["kept, with a problem", escape(name), _first(samples), f"{count:,}"]
        )  # fmt: skip
    if not rows:
        known = (
            "Nothing, says what made the shards."
            if left.recorded
            else "Nothing is recorded beside the shards."
        )
        return f"## What was left out\n\n{known}\n"
    head = ["where", "why", "the first", "documents"]
    return "## What was left out\n\n" + table(head, rows, words=3)


def _synthesis(found: Synthesis | None) -> str:
    if found is None:
        return ""
    rows = [
        [code(step), code(model), f"{count:,}"]
        for (step, model), count in sorted(found.makers.items())
    ]
    outcomes = ", ".join(f"{count:,} {name}" for name, count in sorted(found.outcomes.items()))
    unfinished = (
        f" {found.unfinished:,} items that have come to an end are not in it: the run was not "
        "finished."
        if found.unfinished
        else ""
    )
    seed = "not recorded" if found.seed is None else f"{found.seed}"
    step = f"`{found.step_settings}`" if found.step_settings else "not recorded"
    return (
        f"## Synthesis\n\n{found.items:,} items: {outcomes}; {found.prompts:,} prompts, "
        f"{found.tokens:,} tokens read and written.{unfinished}\n\n"
        + table(["step", "model", "items"], rows, words=2)
        + f"\nSeed of the run: {seed}; each item's seed follows from it. Fingerprint of the step's "
        f"settings, prompts' templates among them: {step}. SHA-256 of all prompts' fingerprints in "
        f"order: `{found.digest}`. `provenance.jsonl` has a line per item: its parent, model, "
        "seed, prompts' fingerprints, tokens and what became of it.\n"
    )


def _settings(facts: Facts) -> str:
    made = facts.header if facts.settings is None else facts.settings
    shown = {"settings": made, "environment": facts.environment}
    if len(json.dumps(shown)) > SETTINGS_CHARS:
        return "## Settings\n\nIn `settings.json`.\n"
    return "## Settings\n\n" + as_json(shown)


def _amount(amount: Amount, of: Amount) -> Iterator[str]:
    yield from (f"{amount.documents:,}", f"{amount.spans:,}", f"{amount.characters:,}")
    yield _share(amount.characters, of.characters)


def _spread(spread: Spread) -> list[str]:
    if spread.mean is None:
        return ["-"] * (3 + len(QUANTILES))
    values = [spread.mean, spread.low, *spread.quantiles(), spread.high]
    return [f"{value:.4g}" for value in values]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _first(samples: list[str]) -> str:
    return "; ".join(escape(one, 100) for one in samples[:SHOWN_SAMPLES]) or "-"


def _licence(licence: str | None) -> str:
    return f"**{NOT_STATED}**" if licence is None else escape(licence)
