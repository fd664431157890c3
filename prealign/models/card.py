"""The card of a saved model: how it was trained, how it is used, what leaks without a guard.

Titles and values are escaped; a section is replaced when the card is made again, and what a person
wrote into other sections stays.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load

from prealign.errors import DataError
from prealign.hub.licences import NOT_STATED, identifier
from prealign.hub.markdown import (
    SETTINGS_CHARS,
    as_json,
    code,
    escape,
    model_front,
    split_front,
    table,
)
from prealign.tokens.vocabulary import Vocabulary

USE_SECTION = "\n## Use\n"
"""Begins what `save_model` adds to a card; it is the last section, and follows from the scheme."""
TAGS = ("prealign", "alignment", "mode-tags")
RESULTS = 60
"""Rows that a card shows."""
LOCKED = ("ai", "good")
"""Modes that a reader is shown the guard with, if the scheme has one; else its first."""

USE = """{section}
Text starts with the end-of-text id ({end_id}), then a tag. Tags are ids above those of the text
tokenizer, and only a harness writes them: `AutoTokenizer` of this folder knows none.

{ids}
Scheme {scheme}, fingerprint `{scheme_print}`; vocabulary of {size:,} ids, fingerprint
`{fingerprint}`. {modes}
{guarded}
### Limits

Use without the guard leaks: the weights give some probability to every tag, so that sampling, a
prompt, or an engine that knows no policy can bring the other voices out; what they say was learnt
as well. The guard follows ids. It keeps the model in a mode; it does not make the voice behind a
tag good: training does, and the results above, if there are any, say how far. Text without any tag
is no mode at all.
"""

GUARDED = """
### Behind the guard

```python
from pathlib import Path
from prealign.guard.gate import Guard
from prealign.guard.policy import lock
from prealign.guard.table import table_of
from prealign.models.files import load_model
from prealign.models.sample import Sampling, sample

model, vocabulary = load_model(Path("FOLDER"))
table = table_of(vocabulary, lock(vocabulary.scheme, {mode!r}))
prompt = [vocabulary.end_id, *table.opening(), *vocabulary.encode_text("")]
settings = Sampling(max_text_tokens=100)
out = sample(model, [prompt], settings, seeds=[0], vocabulary=vocabulary, guard=Guard(table))
print(vocabulary.decode([*prompt, *out[0].ids]).text)
```

Or {serve}.
{policies}"""

POLICIES = """
Policies that it can be served under, with the fingerprint of the guard that each gives:

{table}"""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model came about, as far as it is known."""

    settings: Any = None
    """JSON data: arm, objective, optimizer."""
    text_tokens: int | None = None
    """That it read."""
    steps: int | None = None
    parameters: int | None = None

    @property
    def markdown(self) -> str:
        """The section's text; empty if nothing is known."""
        counts = (
            ("text tokens read", self.text_tokens),
            ("steps", self.steps),
            ("parameters", self.parameters),
        )
        known = "; ".join(f"{name}: {count:,}" for name, count in counts if count is not None)
        settings = as_json(self.settings) if self.settings else ""
        if len(settings) > SETTINGS_CHARS:
            settings = "Its settings are in the run's `config.json`.\n"
        return "\n\n".join(part for part in (known and f"{known}.", settings) if part)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card says besides how the model is used, which follows from its vocabulary."""

    title: str
    lead: str = ""
    """Markdown: what names from data there are in it must be escaped."""
    front: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the YAML in front; those that every card has are added."""
    sections: tuple[tuple[str, str], ...] = ()
    """Headings and their Markdown, in order."""
    raw_title: bool = False
    """The title is Markdown already."""

    def with_section(self, name: str, text: str) -> "Card":
        """Return a copy with the section in its place, or last; no text: as it is."""
        if not text.strip():
            return self
        names = [heading for heading, _ in self.sections]
        new = (name, text.strip())
        if name not in names:
            return replace(self, sections=(*self.sections, new))
        at = names.index(name)
        return replace(self, sections=(*self.sections[:at], new, *self.sections[at + 1 :]))

    def with_front(self, **fields: Any) -> "Card":
        """Return a copy with these fields in front; None leaves one as it is."""
        given = {name: value for name, value in fields.items() if value is not None}
        return replace(self, front={**self.front, **given})

    def with_licence(self, licence: str | None) -> "Card":
        """Return a copy under a licence; None: the one it has, if any."""
        if licence is None:
            known = self.licence
            return self.with_section("Licence", escape(known) if known else f"**{NOT_STATED}**")
        name = identifier(licence)
        front = {k: v for k, v in self.front.items() if k not in ("license", "license_name")}
        front |= {"license": name} | ({"license_name": licence} if name == "other" else {})
        shown = licence if name == "other" else name
        return replace(self, front=front).with_section("Licence", escape(shown))

    @property
    def licence(self) -> str | None:
        """The licence in front; None: it is not stated."""
        found = self.front.get("license_name") or self.front.get("license")
        return None if found in (None, "", "unknown") else str(found)

    def __str__(self) -> str:
        """The card in Markdown, without how the model is used."""
        front = {"library_name": "transformers", "pipeline_tag": "text-generation", **self.front}
        old = front.get("tags") or []
        front["tags"] = [*TAGS, *(tag for tag in old if tag not in TAGS)]
        title = self.title if self.raw_title else escape(self.title)
        parts = [f"{model_front(front)}\n# {title}", self.lead.strip()]
        parts += [f"## {name}\n\n{text}" for name, text in self.sections]
        return "\n\n".join(part for part in parts if part) + "\n"


def read_card(file: Path) -> Card | None:
    """Return the card in a file, without how the model is used; None if there is none.

    Raises:
        DataError: What stands in front of it is no YAML.
    """
    if not file.is_file():
        return None
    text = file.read_text(encoding="utf-8")
    try:
        front = metadata_load(file) if split_front(text)[0] else None
    except Exception as error:  # the parser has many
        raise DataError(f"{file}: what stands in front is no YAML ({error}); mend it") from error
    head, *rest = list(_pieces(split_front(text)[1]))
    title, _, lead = head[1].strip().partition("\n")
    return Card(
        title=title.removeprefix("# ").strip() if title.startswith("# ") else file.parent.name,
        lead=lead if title.startswith("# ") else head[1],
        front=front or {},
        sections=tuple((name, text.strip()) for name, text in rest if name != "Use"),
        raw_title=title.startswith("# "),
    )


def results_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of a run's evaluations as Markdown; empty for none.

    Args:
        rows: As in `evals.jsonl`: condition, metric, unit, value, low, high, n.
    """
    cells = []
    for row in rows[:RESULTS]:
        low, high = row.get("low"), row.get("high")
        spread = f" ({_number(low)} to {_number(high)})" if None not in (low, high) else ""
        condition = row.get("condition") or row.get("arm") or "-"
        cells.append(
            [
                escape(str(condition)), escape(str(row.get("metric", "-"))),
                escape(str(row.get("unit") or "-")), f"{_number(row.get('value'))}{spread}",
                _number(row.get("n")),
            ]
        )  # fmt: skip
    if not cells:
        return ""
    more = f"\n{len(rows) - RESULTS:,} more are in the run.\n" if len(rows) > RESULTS else ""
    head = ["condition", "metric", "unit", "value (95 %)", "n"]
    return table(head, cells, words=3) + more


def use_section(vocabulary: Vocabulary, policies: Mapping[str, str] | None = None) -> str:
    """Return how a model of this vocabulary is used: the last section of its card.

    Args:
        vocabulary: Its ids and scheme.
        policies: Fingerprints of the guard's tables by the policy's name.
    """
    ids = [[f"{vocabulary.end_id}", "end of text"]]
    ids += [[f"{token}", code(tag)] for tag, token in vocabulary.tag_ids.items()]
    ids += [[f"{vocabulary.inert_id}", "inert: padding, never written"]]
    return USE.format(
        section=USE_SECTION,
        end_id=vocabulary.end_id,
        ids=table(["id", "token"], ids, words=2),
        scheme=code(vocabulary.scheme.name),
        scheme_print=vocabulary.scheme.fingerprint,
        size=vocabulary.size,
        fingerprint=vocabulary.fingerprint,
        modes=_modes(vocabulary),
        guarded=_guarded(vocabulary, policies or {}),
    )


def _guarded(vocabulary: Vocabulary, policies: Mapping[str, str]) -> str:
    """Return how the model is guarded; empty if there is nothing to guard."""
    names = [mode.name for mode in vocabulary.scheme.modes]
    if not names:
        return ""
    mode = next((name for name in LOCKED if name in names), names[0])
    rows = [[code(name), f"`{print_}`"] for name, print_ in policies.items()]
    listed = POLICIES.format(table=table(["policy", "guard"], rows, words=2)) if rows else ""
    serve = f"prealign serve FOLDER --policy lock --mode {shlex.quote(mode)}"
    return GUARDED.format(mode=mode, serve=code(serve), policies=listed)


def _modes(vocabulary: Vocabulary) -> str:
    """Return who may stand in whom, in a sentence."""
    said = []
    for mode in vocabulary.scheme.modes:
        kind = "encloses its text" if mode.close else "marks what follows"
        inside = f", only inside {code(mode.inside)}" if mode.inside else ""
        said.append(f"{code(mode.name)} {kind}{inside}")
    return f"Modes: {'; '.join(said) or 'none'}."


def _pieces(body: str) -> Iterable[tuple[str, str]]:
    """Yield what stands in front of the first heading of level 2, then each section."""
    name, lines, fence = "", [""], ""
    for line in body.splitlines():
        run = line[: len(line) - len(line.lstrip("`"))]
        if fence and len(run) >= len(fence):
            fence = ""
        elif not fence and len(run) >= len("```"):
            fence = run
        if not fence and line.startswith("## "):
            yield name, "\n".join(lines)
            name, lines = line.removeprefix("## ").strip(), []
        else:
            lines.append(line)
    yield name, "\n".join(lines)


def _number(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else "-"
