"""What a model writes: samples under a condition, scored and counted.

A condition says which tag opens the text, whether the harness writes it again at each line, and
which text comes first. The decoding regimes of preference pretraining are two conditions: tag
again at each segment, and tag once (Korbak et al. 2023 use one for code, the other for prose).
"""

import ast
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedModel

from prealign.errors import ConfigError
from prealign.evals.stats import Estimate, expected_max, mean_interval
from prealign.guard.canary import CanaryReport, check_path
from prealign.guard.gate import Guard
from prealign.guard.policy import Reemit, reemit, stay
from prealign.guard.table import table_of
from prealign.models.fake import BiasedModel
from prealign.models.sample import AtBorders, Sampled, Sampling, sample
from prealign.text.document import Document, Finding, Judgement, Scorer, Span
from prealign.text.python import parsed
from prealign.tokens.encode import Encoder
from prealign.tokens.vocabulary import Vocabulary

MAX_OF = 25


@dataclass(frozen=True, kw_only=True)
class Condition:
    """How samples are asked for."""

    name: str
    mode: str | None = None
    """The mode whose tag the harness writes in front of the sample; None: no tag."""
    again: bool = False
    """The harness writes the tag again at the start of each line, or where `borders` says."""
    borders: Literal["lines", "model"] = "lines"
    """model: it writes the tag again wherever the model would write any tag, which it must have
    learnt as a target. For segments such as sentences, whose end only the next word shows."""
    prompts: Literal["none", "heldout", "bad"] = "none"
    """Which texts come first: none, so that the sample starts a document; stretches of held-out
    text; or held-out stretches of a bad style."""
    tagged_prompts: bool = False
    """The prompts carry the tags of their own spans."""

    def __post_init__(self) -> None:
        if self.again and self.mode is None:
            raise ConfigError(f"condition {self.name!r}: again=True needs a mode to write again")
        if self.borders not in ("lines", "model"):
            raise ConfigError(
                f"condition {self.name!r}: borders={self.borders!r}: expected lines or model"
            )
        if self.prompts not in ("none", "heldout", "bad"):
            raise ConfigError(
                f"condition {self.name!r}: prompts={self.prompts!r}: expected none, heldout or bad"
            )


@dataclass(frozen=True)
class Writing:
    """One generated text."""

    condition: str
    seed: int
    prompt: str
    text: str
    """Prompt and continuation, without tags; see `whole_lines`."""
    mode: str | None
    token_ids: tuple[int, ...]
    """The text tokens of the whole continuation."""
    pressure: float
    """Mean probability mass on denied tags before the mask, per sampled step."""
    judgement: Judgement | None = None

    @property
    def score(self) -> float | None:
        """The score of the continuation; None: empty, or not judged."""
        return (
            self.judgement.scores[-1]
            if self.judgement and len(self.text) > len(self.prompt)
            else None
        )

    @property
    def findings(self) -> list[Finding]:
        """The findings that begin in the continuation."""
        found = self.judgement.findings if self.judgement else []
        return [f for f in found if f.start_char >= len(self.prompt)]


def write_samples(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    condition: Condition,
    settings: Sampling,
    *,
    count: int,
    seed: int,
    prompts: Sequence[Document] = (),
    cut: bool = True,
) -> list[Writing]:
    """Return `count` guarded samples: the model can write no tag, the harness writes them all.

    The sampling path is put to the canary's test once before it is used.

    Args:
        model: Writes.
        vocabulary: The model's.
        condition: Which tags the harness writes.
        settings: How ids are chosen and when a sample stops.
        count: How many samples.
        seed: Of the whole set; each sample has a stream of its own.
        prompts: Texts that come first, in turn, with their tags if the condition says so.
        cut: A sample that ran out of tokens ends with its last whole line that is not blank: a
            line that was cut short must not be judged, nor what would have followed a blank one.
    """
    opening = [] if condition.mode is None else [vocabulary.open_id(condition.mode)]
    tagging: Literal["own", "none"] = "own" if condition.tagged_prompts else "none"
    first = prompts or (Document("none", ""),)
    encoded = Encoder(vocabulary=vocabulary, tagging=tagging)(first)
    starts = [[*one.ids.tolist(), *opening] for one in encoded]
    check_sampling(vocabulary)
    guard = Guard(table_of(vocabulary, stay(vocabulary.scheme)))
    force: Reemit | AtBorders | None = None
    if condition.mode is not None and condition.again:
        by_line = reemit(vocabulary, condition.mode)  # refuses modes that enclose their text
        force = by_line if condition.borders == "lines" else AtBorders(opening[0])
    seeds = [seed * 1_000_003 + i for i in range(count)]
    sampled = sample(
        model, [starts[i % len(starts)] for i in range(count)], settings, seeds=seeds,
        vocabulary=vocabulary, guard=guard, force=force,
    )  # fmt: skip
    pressure = float(np.mean(guard.pressure()))
    return [
        _writing(condition, first[i % len(first)].text, one, seeds[i], vocabulary, pressure, cut)
        for i, one in enumerate(sampled)
    ]


def real_writings(
    condition: str,
    pairs: Sequence[tuple[str, str]],
    vocabulary: Vocabulary,
    *,
    max_text_tokens: int,
    cut: bool = True,
) -> list[Writing]:
    """Return what a text itself says after its prompts, cut like samples.

    It is what a perfect model of the text would write, in the mean: what one without tags can
    reach at best.

    Args:
        condition: A name.
        pairs: Prompts and all that follows them in the text.
        vocabulary: Counts the tokens.
        max_text_tokens: As in `Sampling`.
        cut: As in `write_samples`.
    """
    writings = []
    for prompt, rest in pairs:
        ids = vocabulary.encode_text(rest)
        written = ids[:max_text_tokens]
        text = rest
        if len(ids) > max_text_tokens:
            text = vocabulary.decode_text(written)
            text = whole_lines(text) if cut else text
        writings.append(Writing(condition, 0, prompt, prompt + text, None, tuple(written), 0.0))
    return writings


def guard_mark(vocabulary: Vocabulary) -> str:
    """Return the policy that samples are written under and its table's fingerprint, for reports."""
    table = table_of(vocabulary, stay(vocabulary.scheme))
    return f"{table.policies[0].name}, {table.fingerprint}"


@lru_cache(maxsize=16)
def check_sampling(vocabulary: Vocabulary) -> CanaryReport:
    """Return what the start-up canary tried on our sampling path; once per vocabulary.

    Raises:
        GuardError: The path is not guarded.
    """
    return check_path(
        sample,
        table_of(vocabulary, stay(vocabulary.scheme)),
        vocabulary,
        biased=lambda token: BiasedModel(vocabulary.size, {token: 1e4}),
        settings={
            "greedy": Sampling(temperature=0, max_text_tokens=4),
            "drawn": Sampling(temperature=1, top_p=1, max_text_tokens=4),
        },
    )


def whole_lines(text: str) -> str:
    """Return the text up to its last whole line that is not blank."""
    lines = text.split("\n")[:-1]
    while lines and not lines[-1].strip():
        lines.pop()
    return "".join(line + "\n" for line in lines)


def judge(writings: Sequence[Writing], scorer: Scorer) -> list[Writing]:
    """Return the writings with what `scorer` says of the prompt and of the continuation."""
    documents = []
    for i, writing in enumerate(writings):
        at, end = len(writing.prompt), len(writing.text)
        spans = (Span(0, at), Span(at, end)) if at else (Span(0, end),)
        documents.append(Document(f"sample-{i}", writing.text, spans if end else ()))
    pairs = zip(writings, scorer(documents), strict=True)
    return [replace(writing, judgement=judgement) for writing, judgement in pairs]


def measure(
    writings: Sequence[Writing],
    *,
    unit: str,
    hit_above: float = 0.0,
    parses: Callable[[str], bool] | None = None,
) -> list[dict[str, Any]]:
    """Return one row per metric of a condition's writings (docs/formats.md, evals.jsonl).

    Scores are per character of a continuation; the mean is over samples, as in Korbak et al.
    Samples that are empty or cannot be judged are left out of the scores and counted.
    """
    condition = writings[0].condition
    scored = [w for w in writings if w.score is not None]
    scores = [w.score for w in scored if w.score is not None]
    rows: list[dict[str, Any]] = []

    def add(metric: str, unit: str, estimate: Estimate | float | None) -> None:
        row: dict[str, Any] = {"condition": condition, "metric": metric, "unit": unit}
        if isinstance(estimate, Estimate):
            row |= estimate._asdict() | {}
        else:
            row["value"] = estimate
        rows.append(row)

    if scores:
        add("mean_score", unit, mean_interval(scores))
        add("hit_share", "share", mean_interval([score > hit_above for score in scores]))
    if len(scores) >= MAX_OF:
        add(f"expected_max_{MAX_OF}", unit, expected_max(scores, of=MAX_OF))
    add("unscored", "samples", float(len(writings) - len(scored)))
    add("chars", "characters", mean_interval([len(w.text) - len(w.prompt) for w in writings]))
    tokens = [w.token_ids for w in writings]
    add("unigram_entropy_bits", "bits", entropy_bits(tokens))
    add("distinct_2", "share", distinct_share(tokens, 2))
    if parses is not None:
        add("parse_share", "share", mean_interval([parses(w.text) for w in writings]))
        add("code_line_share", "share", code_line_share([w.text for w in writings]))
    add("pressure_mean", "probability", writings[0].pressure)
    chars = sum(len(w.text) - len(w.prompt) for w in writings)
    codes = Counter(f.code for w in writings for f in w.findings)
    for code, number in sorted(codes.items()):
        add(f"code:{code}", "per 1000 characters", 1000 * number / max(chars, 1))
    return rows


def entropy_bits(tokens: Sequence[Sequence[int]]) -> float | None:
    """Return the entropy of the tokens' own distribution, in bits; None without tokens."""
    counts = np.array(list(Counter(t for ids in tokens for t in ids).values()), dtype=np.float64)
    if counts.size == 0:
        return None
    p = counts / counts.sum()
    return float(-(p * np.log2(p)).sum())


def distinct_share(tokens: Sequence[Sequence[int]], n: int) -> float | None:
    """Return different n-grams over n-grams (Li et al. 2016); None without n-grams."""
    grams = [tuple(ids[i : i + n]) for ids in tokens for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def code_line_share(texts: Sequence[str]) -> float | None:
    """Return the share of lines that are neither empty nor a comment; None without lines.

    A model that writes nothing but such lines breaks no rule: the share shows that it cheats.
    """
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return sum(bool(line) and line[0] != "#" for line in lines) / len(lines) if lines else None


def parses_as_python(text: str) -> bool:
    """Return whether the text is Python that compiles to a syntax tree."""
    return parsed(text) is not None


def python_starts(text: str) -> list[int]:
    """Return where the functions and classes of a module's top level begin, in characters.

    None in a text that does not parse.
    """
    tree = parsed(text)
    if tree is None:
        return []
    # ast counts lines as the interpreter does: a form feed does not end one.
    lines = list(accumulate((len(line) + 1 for line in text.split("\n")), initial=0))
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = [node for node in tree.body if isinstance(node, defined)]
    return [
        lines[min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1] for node in found
    ]


def paragraph_starts(text: str) -> list[int]:
    """Return where the paragraphs of a text begin, in characters: behind empty lines, and at 0."""
    starts = [0, *(match.end() for match in re.finditer(r"\n[ \t]*\n+", text))]
    return [at for at in starts if at < len(text)]


def sample_row(writing: Writing) -> dict[str, Any]:
    """Return a row of samples.jsonl."""
    at, end = len(writing.prompt), len(writing.text)
    spans: list[dict[str, Any]] = [{"start": 0, "end": at, "mode": None}] if at else []
    spans.append({"start": at, "end": end, "mode": writing.mode})
    findings = [
        {"start": f.start_char, "end": f.end_char, "code": f.code, "message": f.message}
        for f in writing.findings
    ]
    return {
        "condition": writing.condition, "seed": writing.seed, "text": writing.text,
        "spans": spans, "findings": findings, "score": writing.score,
    }  # fmt: skip


def _writing(
    condition: Condition,
    prompt: str,
    one: Sampled,
    seed: int,
    vocabulary: Vocabulary,
    pressure: float,
    cut: bool,
) -> Writing:
    ids = [token for token in one.ids if token < vocabulary.text_size]
    text = vocabulary.decode_text(ids)
    whole = whole_lines(text) if cut and not one.finished else text
    return Writing(
        condition.name, seed, prompt, prompt + whole, condition.mode, tuple(ids), pressure
    )
