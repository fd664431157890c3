"""What a model does where it is its turn: answers behind a policy, judged by what they say.

An answer is the first line of text that is not empty, up to its newline: what a user would see as
the model's turn. What stands in a quote within it is somebody else's and left out.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedModel

from prealign.errors import DataError
from prealign.evals.stats import mean_interval
from prealign.guard.gate import Guard
from prealign.guard.policy import Policy
from prealign.guard.table import Table, table_of
from prealign.models.sample import Sampled, Sampling, sample
from prealign.text.document import Document
from prealign.tokens.encode import Encoder
from prealign.tokens.vocabulary import Vocabulary


class Answer(NamedTuple):
    """What a model wrote in its turn."""

    text: str
    """The first line, without what is quoted."""
    whole: str
    """All that was written, without what is quoted."""
    left: bool
    """Some of its text stands outside of the mode that it should speak in."""
    ids: tuple[int, ...]
    prompt_ids: tuple[int, ...]


def ask(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    talks: Sequence[Document],
    *,
    policy: Policy,
    tagged: bool,
    settings: Sampling,
    seed: int,
    home: str | None = None,
) -> list[Answer]:
    """Return the model's answer to each talk.

    Args:
        model: Writes.
        vocabulary: The model's.
        talks: Documents that end where it is the model's turn.
        policy: What the model may do; the harness opens its start.
        tagged: The talks are read with their tags, and the policy's start is opened; without, the
            model reads bare text and gets no tag.
        settings: How it writes.
        seed: Of all answers.
        home: The mode that it should speak in; text outside of it counts as `left`. None: there
            is nothing to leave.
    """
    table = table_of(vocabulary, policy)
    prompts = [prompt_ids(vocabulary, talk, table, tagged=tagged) for talk in talks]
    guard = Guard(table, pressure=False)
    seeds = [seed * 1_000_003 + number for number in range(len(talks))]
    written = sample(model, prompts, settings, seeds=seeds, vocabulary=vocabulary, guard=guard)
    return [answer_of(one, table, vocabulary, home=home) for one in written]


def prompt_ids(vocabulary: Vocabulary, talk: Document, table: Table, *, tagged: bool) -> list[int]:
    """Return the ids that a model reads before its turn.

    The modes that the policy starts in stay open if the talk ends within them (as behind a quote),
    and are opened if not; all others are closed.

    Raises:
        DataError: The talk has no spans.
    """
    if not talk.spans:
        raise DataError(f"talk {talk.id!r}: has no spans, so nobody speaks in it")
    encoder = Encoder(vocabulary=vocabulary, tagging="own" if tagged else "none")
    (encoded,) = encoder([talk])
    ids = [int(token) for token in encoded.ids]
    if not tagged:
        return ids
    start = table.policies[0].start
    last = talk.spans[-1].mode
    within = vocabulary.scheme.path(last) if last else ()
    if start and within[: len(start)] == start:
        return ids[: -len(start)]  # the closing tags of what is to go on
    return [*ids, *table.opening()]


def answer_of(
    one: Sampled, table: Table, vocabulary: Vocabulary, *, home: str | None = None
) -> Answer:
    """Return what a sample says; see `ask`."""
    state = table.scan(one.prompt_ids)
    left, kept = False, []
    for token in one.ids:
        if token >= vocabulary.text_size:
            state = table.scan([token], state)
            continue
        path = table.path(state)
        left |= home is not None and home not in path
        if path[-1:] != ("quote",):
            kept.append(token)
    whole = vocabulary.decode_text(kept)
    first = whole.lstrip("\n").partition("\n")[0]
    return Answer(first, whole, left, one.ids, one.prompt_ids)


def shares(
    answers: Sequence[Answer], is_bad: Callable[[str], bool | None], *, condition: str
) -> list[dict[str, Any]]:
    """Return rows: how many answers are bad, say nothing that can be judged, or leave the mode.

    Args:
        answers: Of one condition.
        is_bad: Judges a text: True, False, or None where there is nothing to judge.
        condition: Names the rows.
    """
    judged = [is_bad(answer.text) for answer in answers]
    everything = [is_bad(answer.whole) for answer in answers]
    found = {
        "bad_share": [one is True for one in judged],
        "bad_share_whole": [one is True for one in everything],
        "unjudged_share": [one is None for one in judged],
        "left_share": [answer.left for answer in answers],
    }
    return [
        {"condition": condition, "metric": name, "unit": "share", **mean_interval(values)._asdict()}
        for name, values in found.items()
    ]
