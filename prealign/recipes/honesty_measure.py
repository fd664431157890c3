"""All that is measured of a model of the town: its answers, its confidences, sources, contexts."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from prealign.corpora.worlds.facts import (
    UNKNOWN,
    Fact,
    Source,
    Style,
    Town,
    check,
    question,
    read_answer,
    source_text,
)
from prealign.errors import DataError
from prealign.evals.abstain import contradiction, tails
from prealign.evals.choices import prompt_ids
from prealign.evals.confidence import measure_confidence, threshold
from prealign.evals.corrigible import answers_of
from prealign.evals.detect import auroc_interval
from prealign.evals.knowing import Given, Pairs, Tries, pairs_of, told_pairs, try_often
from prealign.evals.p_ik import Head, fit_head, last_states, next_entropy, peaks
from prealign.evals.p_true import p_true, proposals
from prealign.evals.stats import mean_interval
from prealign.models.files import LoadedModel
from prealign.models.sample import Sampling

HELD_OUT = "dish"
"""The relation that no post-training, and no P(IK) head, is trained on."""
SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_text_tokens=9)
SOURCES: tuple[Source, ...] = ("none", "record", "irrelevant", "good hint", "misleading hint")
ELSEWHERE: tuple[Style, ...] = ("phrasing", "statement")
"""Other ways of asking, for the cross-context test."""
SHOWN = 4
"""Samples in front of a proposed answer."""
LABELS = {True: "held-out relation", False: "trained relations"}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How much is asked."""

    samples: int
    asked: int
    """Facts of each relation at most, of each split."""
    penalty: float


class Found(NamedTuple):
    """What is left of a measurement."""

    rows: list[dict[str, Any]]
    head: Head | None
    """None: hardly anybody tries to answer, so there is nothing to learn it from."""
    known: dict[str, float | None]
    """By the fact's id, of the facts that are asked for."""


def ask(
    loaded: LoadedModel, asked: Sequence[tuple[Fact, str]], *, times: int, seed: int
) -> list[Tries]:
    """Return samples of each fact's prompt, judged."""
    answer = answers_of(loaded.model, loaded.vocabulary, seed=seed, settings=SAMPLING)
    judges = [partial(judge, fact) for fact, _ in asked]
    return try_often(answer, [prompt for _, prompt in asked], judges, times=times)


def judge(fact: Fact, text: str) -> Given:
    """Return what a first line says of a fact."""
    said = read_answer(text)
    if said is None:
        return Given("none")
    if said.value is None:
        return Given("abstained")
    return Given("right" if said.value == fact.value else "wrong", said.value, said.sure)


def measure(
    how: Measured,
    loaded: LoadedModel,
    town: Town,
    known: Mapping[str, float | None] | None,
    *,
    seed: int,
    condition: str,
) -> Found:
    """Return all rows of a model, its P(IK) head, and what it knows.

    Args:
        how: How much is asked.
        loaded: The model.
        town: Its facts.
        known: What was known before, by the fact's id; None: this is before.
        seed: Of samples, words and the head.
        condition: In front of each row's condition.
    """
    facts = {split: _drawn(town, split, how.asked) for split in ("train", "test")}
    tries = {
        split: ask(loaded, [(one, question(one)) for one in own], times=how.samples, seed=seed + at)
        for at, (split, own) in enumerate(facts.items(), start=1_000)
    }
    test, plain = facts["test"], tries["test"]
    own = {fact.id: one.known for fact, one in zip(test, plain, strict=True)}
    before = own if known is None else known
    heads = _heads(loaded, facts["train"], tries["train"], seed)
    rows = _tail_rows(how, loaded, test, plain, before, seed=seed, condition=condition)
    if heads is None:
        return Found(rows, None, own)
    head, state_head = heads
    states = last_states(loaded.model, _prompts(loaded, [question(one) for one in test]))
    first = _first_id(loaded)
    scores = head(peaks(loaded.model, states, without=first))
    entropies = next_entropy(loaded.model, states, without=first)
    for held_out, label in LABELS.items():
        some = [i for i, one in enumerate(test) if (one.relation == HELD_OUT) == held_out]
        part = [plain[i] for i in some]
        place = f"{condition}, {label}"
        rows += _p_ik_rows(how, part, scores[some], entropies[some], place)
        bare = _or_none(partial(pairs_of, scores=state_head(states[some]).tolist()), part)
        rows += [] if bare is None else _confidence_rows(how, bare, f"{place}, P(IK) of the state")
        rows += _p_true_rows(how, loaded, [test[i] for i in some], part, place)
    inside = [i for i, one in enumerate(test) if one.relation != HELD_OUT]
    rows += _source_rows(loaded, head, [test[i] for i in inside], before, seed, condition)
    rows += _times_rows(test, plain, scores, condition)
    return Found(rows, head, own)


def _drawn(town: Town, split: str, most: int) -> list[Fact]:
    """Return the facts that are asked for: of each relation those of the first people."""
    facts = [one for one in town.facts() if one.split == split]
    seen: dict[str, int] = {}
    found = []
    for one in facts:
        seen[one.relation] = seen.get(one.relation, 0) + 1
        if seen[one.relation] <= most:
            found.append(one)
    return found


def _prompts(loaded: LoadedModel, texts: Sequence[str]) -> list[list[int]]:
    return [prompt_ids(loaded.vocabulary, text) for text in texts]


def _first_id(loaded: LoadedModel) -> int:
    """Return the id that `I don't know.` begins with, which no value begins with."""
    return loaded.vocabulary.encode_text(f" {UNKNOWN}")[0]


def _heads(
    loaded: LoadedModel, facts: Sequence[Fact], tries: Sequence[Tries], seed: int
) -> tuple[Head, Head] | None:
    """Return two heads trained on bare questions of the relations that are not held out.

    The first one reads how high the likeliest next tokens stand, the second one the state itself.
    None: the answers of two people at least are needed, and there are none.
    """
    use = [i for i, one in enumerate(facts) if one.relation != HELD_OUT]
    if len({facts[i].person for i in use if tries[i].tried}) < 2:
        return None
    states = last_states(loaded.model, _prompts(loaded, [question(facts[i]) for i in use]))
    people = [facts[i].person for i in use]
    own = [tries[i] for i in use]
    high = peaks(loaded.model, states, without=_first_id(loaded))
    return (
        fit_head(high, own, groups=people, width=8, seed=seed),
        fit_head(states, own, groups=people, seed=seed),
    )


def _tail_rows(
    how: Measured, loaded: LoadedModel, test: Sequence[Fact], plain: Sequence[Tries],
    before: Mapping[str, float | None], *, seed: int, condition: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return both tails, told confidences, and what is answered elsewhere."""
    rows: list[dict[str, Any]] = []
    least = threshold(how.penalty)
    styles: dict[str, list[Tries]] = {"plain": list(plain)}
    others: tuple[Style, ...] = ("sure", *ELSEWHERE)
    for at, style in enumerate(others, start=2_000):
        prompts = [(one, question(one, style)) for one in test]
        styles[style] = ask(loaded, prompts, times=how.samples, seed=seed + at)
    for held_out, label in LABELS.items():
        some = [i for i, one in enumerate(test) if (one.relation == HELD_OUT) == held_out]
        known = [before[test[i].id] for i in some]
        for style in ("plain", "sure", "phrasing"):
            part = [styles[style][i] for i in some]
            rows += tails(part, known, least=least).rows(condition=f"{condition}, {label}, {style}")
        told = [styles["sure"][i] for i in some]
        rows += _told_rows(how, told, f"{condition}, {label}, told")
        for here in ("plain", "sure"):
            for there in ELSEWHERE:
                found = contradiction(
                    [styles[here][i] for i in some], [styles[there][i] for i in some]
                )
                place = f"{condition}, {label}, {here} then {there}"
                rows.append(_row(place, "right_everywhere", "share", found.everywhere._asdict()))
                if found.rate is not None:
                    rows.append(_row(place, "contradiction", "share", found.rate._asdict()))
    return rows


def _told_rows(how: Measured, tries: Sequence[Tries], place: str) -> list[dict[str, Any]]:
    """Return what is measured of the confidence told with an answer; none where none is told."""
    pairs = _or_none(told_pairs, tries)
    if pairs is None:
        return []
    spread = float(np.std(pairs.scores))
    rows = [_row(place, "confidence_spread", "probability", {"value": spread, "n": len(pairs[0])})]
    return rows + _confidence_rows(how, pairs, place)


def _p_ik_rows(
    how: Measured, tries: Sequence[Tries], scores: Any, entropies: Any, place: str
) -> list[dict[str, Any]]:
    """Return what is measured of P(IK), and its baselines: entropies of the answers."""
    pairs = _or_none(partial(pairs_of, scores=scores.tolist()), tries)
    if pairs is None or _one_sided(pairs):
        return []
    rows = _confidence_rows(how, pairs, f"{place}, P(IK)")
    for name, values in (
        ("sampled", [-one.entropy_nats for one in tries]),
        ("next token", (-entropies).tolist()),
    ):
        own = pairs_of(tries, values)
        found = auroc_interval(own.scores, own.labels, clusters=own.questions)
        rows.append(_row(f"{place}, entropy, {name}", "auroc", "area", found._asdict()))
    return rows


def _p_true_rows(
    how: Measured, loaded: LoadedModel, facts: Sequence[Fact], tries: Sequence[Tries], place: str
) -> list[dict[str, Any]]:
    """Return what is measured of P(True), with own samples in front and without."""
    rows = []
    for shown in (SHOWN, 0):
        proposed = proposals(tries, shown=shown)
        if not proposed:
            continue
        prompts = [partial(check, fact) for fact in facts]
        pairs = p_true(loaded.model, loaded.vocabulary, proposed, prompts)
        rows += _confidence_rows(how, pairs, f"{place}, P(True), {shown} shown")
    return rows


def _source_rows(
    loaded: LoadedModel, head: Head, facts: Sequence[Fact], before: Mapping[str, float | None],
    seed: int, condition: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return P(IK) behind each kind of source, over all facts and over those not known before."""
    rows = []
    names = sorted({one.person for one in facts})
    unknown = np.array([(before[one.id] or 0.0) < 0.5 for one in facts])
    bare = None
    for source in SOURCES:
        rng = random.Random(f"sources {seed}")
        texts = [source_text(one, source, rng, names) + question(one) for one in facts]
        states = last_states(loaded.model, _prompts(loaded, texts))
        scores = head(peaks(loaded.model, states, without=_first_id(loaded)))
        bare = scores if bare is None else bare
        answers = ask(loaded, list(zip(facts, texts, strict=True)), times=1, seed=seed + 3_000)
        right = np.array([float(one.count("right")) for one in answers])
        for who, use in (("all", np.ones_like(unknown)), ("not known", unknown)):
            if not use.any():
                continue
            place = f"{condition}, source {source}, {who}"
            numbers = {"p_ik": scores, "p_ik_rise": scores - bare, "right_share": right}
            rows += [
                _row(place, name, "probability", mean_interval(values[use])._asdict())
                for name, values in numbers.items()
            ]
    return rows


def _times_rows(
    facts: Sequence[Fact], tries: Sequence[Tries], scores: Any, condition: str
) -> list[dict[str, Any]]:
    """Return, by how often a fact was told, what is known and what P(IK) says."""
    rows = []
    for times in sorted({one.times for one in facts}):
        some = [i for i, one in enumerate(facts) if one.times == times]
        known = [found for i in some if (found := tries[i].known) is not None]
        place = f"{condition}, told {times} times"
        for name, values in (("known", known), ("p_ik", [float(scores[i]) for i in some])):
            if values:
                rows.append(_row(place, name, "probability", mean_interval(values)._asdict()))
    return rows


def _confidence_rows(how: Measured, pairs: Pairs, place: str) -> list[dict[str, Any]]:
    """Return rows of a confidence; none where all answers are right, or all are wrong."""
    if _one_sided(pairs):
        return []
    return measure_confidence(pairs, penalty=how.penalty).rows(condition=place)


def _one_sided(pairs: Pairs) -> bool:
    return bool(pairs.labels.all() or not pairs.labels.any()) or len(set(pairs.questions)) < 2


def _or_none(read: Any, tries: Sequence[Tries]) -> Pairs | None:
    """Return the pairs, or None where nobody tries to answer."""
    try:
        found: Pairs = read(tries)
    except DataError:
        return None
    return found


def _row(place: str, metric: str, unit: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {"condition": place, "metric": metric, "unit": unit, **numbers}
