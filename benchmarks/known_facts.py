"""What does a real 135M model know of capitals and elements, and does it know what it knows?

Ground-truth P(IK) by a few samples at temperature 1, P(True) with own samples shown, and the
entropy of its answers, by how hard the questions are. Needs the extras `questions` and the packaged
SmolLM2-135M-Instruct.

    python benchmarks/known_facts.py --out results/known_facts.json
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from prealign.corpora.questions import SETS, Question, is_right, value_of
from prealign.evals.chat_choices import chat_margins
from prealign.evals.choices import Asked, Item
from prealign.evals.confidence import measure_confidence
from prealign.evals.detect import auroc_interval
from prealign.evals.knowing import Given, Pairs, Tries, pairs_of
from prealign.evals.p_ik import last_states, next_entropy
from prealign.evals.p_true import Proposal, proposals, sigmoid
from prealign.evals.stats import mean_interval
from prealign.guard.policy import stay
from prealign.models.adopt import SMOLLM2, adopt, own_tokenizer
from prealign.models.chat import Chat, chat_of
from prealign.models.files import LoadedModel
from prealign.models.sample import Sampling
from prealign.posttrain.rollouts import Stage, Task
from prealign.runs import Check, ResultRow, write_results
from prealign.text.document import Document, Span
from prealign.text.scheme import TWO_MODES

QUESTION = "What does a 135M model know of capitals and elements, and does it know what it knows?"
PARTS = 4
"""Questions by rank: as many in each part."""
SHOWN = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--every", type=int, default=1, help="of the questions, each so-many-th")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start_s = time.perf_counter()
    loaded = adopt(SMOLLM2, TWO_MODES)
    chat = chat_of(own_tokenizer(SMOLLM2), loaded.vocabulary)
    rows, checks = [], []
    for name, read in SETS.items():
        asked = read()[:: args.every]
        tries = asked_often(loaded, chat, asked, count=args.samples, seed=args.seed)
        rows += measured(name, loaded, chat, asked, tries)
        known = by_part(tries)
        rows += [
            ResultRow(arm=f"{name}, part {part + 1} of {PARTS}", metric="known",
                      unit="share", **one._asdict())
            for part, one in enumerate(known)
        ]  # fmt: skip
        checks.append(
            Check(
                what=f"{name}: share of right samples, first part less the last",
                bar="> 0, intervals apart",
                value=f"{known[0].value:.3f} ({known[0].low:.3f} to {known[0].high:.3f}) against "
                f"{known[-1].value:.3f} ({known[-1].low:.3f} to {known[-1].high:.3f})",
                holds=known[0].low > known[-1].high,
                control="the last part: the smallest countries, the heaviest elements",
            )
        )
    write_results(args.out, question=QUESTION, seeds=(args.seed,), rows=rows, checks=checks,
                  wall_s=time.perf_counter() - start_s)  # fmt: skip
    for row in rows:
        print(f"{row.arm}: {row.metric} {row.value:.3f}")


def asked_often(
    loaded: LoadedModel, chat: Chat, asked: Sequence[Question], *, count: int, seed: int
) -> list[Tries]:
    stage = Stage(
        vocabulary=loaded.vocabulary, policy=stay(loaded.vocabulary.scheme), chat=chat,
        sampling=Sampling(temperature=1.0, top_p=1.0, max_text_tokens=12, batch_rows=32),
        tagged=False,
    )  # fmt: skip
    tasks = [Task(Document(q.id, q.text, (Span(0, len(q.text)),))) for q in asked]
    written = stage.write(loaded.model, tasks, 0, count=count, seed=seed)
    return [
        Tries(tuple(judged(q, one.text) for one in written[i * count : (i + 1) * count]))
        for i, q in enumerate(asked)
    ]


def judged(question: Question, text: str) -> Given:
    return Given("right" if is_right(question, text) else "wrong", value_of(text))


def by_part(tries: Sequence[Tries]) -> list:
    known = np.array([one.known for one in tries])
    return [mean_interval(part) for part in np.array_split(known, PARTS)]


def measured(
    name: str, loaded: LoadedModel, chat: Chat, asked: Sequence[Question], tries: Sequence[Tries]
) -> list[ResultRow]:
    prompt = partial(chat.ids, loaded.vocabulary, "")
    states = last_states(loaded.model, [prompt(one.text) for one in asked])
    exact = next_entropy(loaded.model, states, without=chat.end or loaded.vocabulary.end_id)
    scores = {"sampled": [-one.entropy_nats for one in tries], "next token": (-exact).tolist()}
    rows = []
    for kind, values in scores.items():
        own = pairs_of(tries, values)
        found = auroc_interval(own.scores, own.labels, clusters=own.questions)
        rows.append(ResultRow(arm=f"{name}, entropy, {kind}", metric="auroc", unit="area",
                              **found._asdict()))  # fmt: skip
    given = proposals(tries, shown=SHOWN)
    gaps = chat_margins(
        loaded.model, [item_of(asked[one.question], one) for one in given], prompt,
        loaded.vocabulary.encode_text,
    ).item_means  # fmt: skip
    pairs = Pairs(sigmoid(gaps), np.array([one.right for one in given]), np.arange(len(given)))
    for row in measure_confidence(pairs).rows(condition=f"{name}, P(True), {SHOWN} shown"):
        rows.append(ResultRow(arm=row.pop("condition"), **row))
    return rows


def item_of(question: Question, one: Proposal) -> Item:
    text = (
        f"Question: {question.text}\nSome brainstormed ideas: {'; '.join(one.shown)}\n"
        f"Possible answer: {one.proposed}\nIs the possible answer:\n"
    )
    ends = ("(A) True\n(B) False", "(A) False\n(B) True")
    ask = "\nAnswer with the letter alone."
    return Item(question.id, (Asked(text + ends[0] + ask, "A", "B"),
                              Asked(text + ends[1] + ask, "B", "A")))  # fmt: skip


if __name__ == "__main__":
    main()
