"""The runner: it asks many questions at once, and accounts for every item exactly once.

An item is written, rejected with a reason, or failed after all its tries. One thread decides and
writes; the others ask. An answer is on disk before anything is made of it, so that a run that was
killed goes on where it was, and asks again only what was in flight.
"""

import hashlib
import heapq
import json
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

from prealign.ask.answer import Answer, BudgetSpent, CannotAnswer, NotNow, Writer
from prealign.ask.kept import KeptAnswers
from prealign.config import fingerprint
from prealign.corpora.synthesis.folder import Ended, Folder, Report, item_seed, report
from prealign.corpora.synthesis.step import Item, Rejected, Step
from prealign.errors import ConfigError, DataError
from prealign.runs import write_atomic

EVERY_S = 10.0
"""Seconds between lines of progress."""
PROOFS = 3
"""Tries to have something answered again."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How questions are asked; what is written does not depend on it."""

    concurrency: int = 16
    """Questions at once."""
    tries: int = 6
    """Of a question that may be answered when asked again."""
    first_wait_s: float = 1.0
    """Before the second try; it doubles, with up to half of it more or less by chance."""
    longest_wait_s: float = 60.0
    max_per_s: float | None = None
    """Questions a second. None: as many as are answered."""
    max_tokens: int | None = None
    """No question is asked once all answers have as many; those in flight are still taken."""
    price_per_million: float | None = None
    """Of tokens, for the line of progress."""
    give_up_after: int = 20
    """When as many items in a row failed and nothing at all was answered, a question is asked again
    that was answered once; the run stops if that is not answered either."""
    progress: bool = True
    """Whether to show lines on standard error."""

    def __post_init__(self) -> None:
        for name in ("concurrency", "tries", "give_up_after", "max_tokens", "max_per_s"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"Asking.{name}={value}: must be above 0")
        if not 0 <= self.first_wait_s <= self.longest_wait_s:
            raise ConfigError(
                f"Asking: first_wait_s={self.first_wait_s} must be from 0 to "
                f"longest_wait_s={self.longest_wait_s}"
            )


def synthesize(
    step: Step,
    items: Iterable[Item],
    writer: Writer,
    out: Path,
    *,
    seed: int = 0,
    asking: Asking | None = None,
    shard_items: int = 1000,
    retry_failed: bool = False,
) -> Report:
    """Write the documents of a step to shards in `out`; the same call goes on after a kill.

    Args:
        step: A frozen dataclass: its settings are recorded.
        items: What is wanted. All are held in memory, ids must be unique.
        writer: A frozen dataclass, such as an `OpenAIServer` with `tries=1`: the runner does the
            trying again, and no thread waits for it.
        out: The folder; `prealign.corpora.synthesis.folder` says what it then holds.
        seed: Of the run; each item has a seed that follows from it and the item's id.
        asking: How questions are asked.
        shard_items: Items of a shard.
        retry_failed: Whether items that failed when the run last ended are asked about again.

    Raises:
        BudgetSpent: `max_tokens` were used up; with more, the same call goes on.
        DataError: The writer cannot be asked at all, or has stopped answering.
        RunError: The folder holds another run, another process is in it, or ids are not unique.
    """
    asking = asking or Asking()
    with folder_of(step, items, writer, out, seed=seed, shard_items=shard_items) as folder:
        if retry_failed:
            folder.retry_failed()
        _Run(step, writer, folder, seed, asking).run()
        found = report(out)
        summary = {"step": step.name, "model": writer.name, **vars(found)}
        write_atomic(out / "summary.json", json.dumps(summary, indent=1, sort_keys=True) + "\n")
    return found


def folder_of(
    step: Step, items: Iterable[Item], writer: Writer, out: Path, *, seed: int, shard_items: int
) -> Folder:
    """Return the folder of a run, to be entered; the arguments are those of `synthesize`.

    Raises:
        ConfigError: A shard has no items.
    """
    if shard_items < 1:
        raise ConfigError(f"shard_items={shard_items}: must be at least 1")
    settings = {"step": step, "writer": writer, "seed": seed}
    return Folder(out, settings, list(items), shard_items)


@dataclass(slots=True)
class _Question:
    """The next question about an item, and what was said before."""

    index: int
    prompt: str
    key: str
    said: list[Answer]
    prompts: tuple[str, ...]
    seed: int
    tries: int = 0


@dataclass
class _Run:
    step: Step
    writer: Writer
    folder: Folder
    seed: int
    asking: Asking
    again: deque[_Question] = field(default_factory=deque)
    """Second and later questions about an item, before new items."""
    waiting: list[tuple[float, int, _Question]] = field(default_factory=list)
    """A heap of what is to be tried again, with the moment."""
    flying: int = 0
    unproven: list[tuple[int, Ended]] = field(default_factory=list)
    """Failed since the last answer: perhaps the writer is gone, so they are not written down."""
    stop: Exception | None = None
    number: int = 0

    def run(self) -> None:
        """Bring every item to its end."""
        self.kept = KeptAnswers(self.folder.path / "answers.sqlite")
        self.known = self.kept.all()
        self.spent = sum(answer.tokens for answer in self.known.values())
        self.model = fingerprint(self.writer)
        self.results: SimpleQueue[tuple[_Question, Answer | Exception]] = SimpleQueue()
        self.missing = deque(self.folder.missing())
        self.begin_s = self.shown_s = self.next_s = time.monotonic()
        self.answered = 0
        self.ended_before = len(self.folder.journal)
        # A few wait in line, so that no thread idles while answers are written to the disk.
        strict = self.asking.max_per_s or self.asking.max_tokens
        self.most = self.asking.concurrency * (1 if strict else 2)
        with (
            self.kept.held_open() as self.keep,
            ThreadPoolExecutor(self.asking.concurrency) as self.pool,
        ):
            try:
                while self._launch() or self.flying or self.waiting:
                    self._take()
                    self._show()
                    if self.stop and not self.flying:
                        raise self.stop
            finally:
                self.pool.shutdown(wait=True, cancel_futures=True)
                self._save(self._drain())
        self.folder.end(self.unproven)

    def _launch(self) -> bool:
        """Ask what can be asked now; return whether there is more to ask that need not wait."""
        while self.flying < self.most and self.stop is None:
            now_s = time.monotonic()
            if self.asking.max_per_s and now_s < self.next_s:
                return True
            question = self._next(now_s)
            if question is None:
                return False
            if self.asking.max_tokens is not None and self.spent >= self.asking.max_tokens:
                self.stop = BudgetSpent(
                    f"synthesis: {self.spent:,} tokens were used, max_tokens="
                    f"{self.asking.max_tokens:,}; what was answered is kept in {self.kept.file}: "
                    "give it more and run again"
                )
                return True
            if self.asking.max_per_s:
                self.next_s = max(self.next_s, now_s - 0.1) + 1 / self.asking.max_per_s
            self.flying += 1
            self.pool.submit(self._work, question)
        return True

    def _next(self, now_s: float) -> _Question | None:
        if self.waiting and self.waiting[0][0] <= now_s:
            return heapq.heappop(self.waiting)[2]
        if self.again:
            return self.again.popleft()
        ended: list[tuple[int, Ended]] = []
        while self.missing:
            index = self.missing.popleft()
            done = self.folder.journal.get(self.folder.items[index].id)
            step = self._advance(index, [], ())
            if isinstance(step, Ended):
                ended.append((index, step))
            elif done and done[0] != "written":  # a question that was refused, or came to nothing
                tokens = sum(answer.tokens for answer in step.said)
                ended.append((index, Ended(*done, None, step.prompts, tokens)))
            else:
                self.folder.end(ended)
                return step
            if len(ended) == 1000:
                self.folder.end(ended)
                ended = []
        self.folder.end(ended)
        return None

    def _advance(
        self, index: int, said: list[Answer], prompts: tuple[str, ...]
    ) -> _Question | Ended:
        """Return the next question about an item that nobody has answered, or its end."""
        item = self.folder.items[index]
        try:
            while True:
                texts = [answer.text for answer in said]
                prompt = self.step.ask(item, texts)
                tokens = sum(answer.tokens for answer in said)
                if prompt is None:
                    document = self.step.read(item, texts)
                    return Ended("written", None, document, prompts, tokens)
                prompts = (*prompts, fingerprint(prompt))
                seed = item_seed(item, self.seed)
                key = _key(self.model, seed, len(said), prompt)
                answer = self.known.pop(key, None)
                if answer is None:
                    return _Question(index, prompt, key, said, prompts, seed)
                said = [*said, answer]
        except Rejected as error:
            tokens = sum(answer.tokens for answer in said)
            return Ended("rejected", error.reason, None, prompts, tokens)

    def _work(self, question: _Question) -> None:
        """Ask, in a thread of its own; whatever comes of it goes to the one that decides."""
        try:
            self.results.put((question, self.writer(question.prompt, seed=question.seed)))
        except Exception as error:
            self.results.put((question, error))

    def _drain(self, wait_s: float = 0.0) -> list[tuple[_Question, Answer | Exception]]:
        found = []
        try:
            found.append(self.results.get(timeout=wait_s) if wait_s else self.results.get_nowait())
            while True:
                found.append(self.results.get_nowait())
        except Empty:
            return found

    def _take(self) -> None:
        """Wait for results, a while at most, and go on with their items."""
        now_s = time.monotonic()
        until_s = now_s + 0.5
        if self.waiting:
            until_s = min(until_s, self.waiting[0][0])
        if self.asking.max_per_s and self.next_s > now_s:
            until_s = min(until_s, self.next_s)
        results = self._drain(max(until_s - now_s, 0.001))
        self.flying -= len(results)
        answers = self._save(results)
        ended: list[tuple[int, Ended]] = []
        for question, answer in answers:
            step = self._advance(question.index, [*question.said, answer], question.prompts)
            if isinstance(step, _Question):
                self.again.append(step)
            else:
                ended.append((question.index, step))
        for question, result in results:
            if isinstance(result, Exception):
                ended += self._problem(question, result)
        if answers or ended:
            self.folder.end([*self.unproven, *ended] if answers else ended)
            self.unproven = [] if answers else self.unproven

    def _save(
        self, results: Sequence[tuple[_Question, Answer | Exception]]
    ) -> list[tuple[_Question, Answer]]:
        """Keep the answers among results, and return them."""
        answers = [(q, result) for q, result in results if isinstance(result, Answer)]
        if answers:
            self.keep((question.key, answer) for question, answer in answers)
        self.spent += sum(answer.tokens for _, answer in answers)
        self.answered += len(answers)
        return answers

    def _problem(self, question: _Question, error: Exception) -> list[tuple[int, Ended]]:
        """Deal with a question that was not answered; return its end if it is one."""
        tokens = sum(answer.tokens for answer in question.said)
        if isinstance(error, CannotAnswer):
            reason = "the writer refuses the question"
            return [(question.index, Ended("rejected", reason, None, question.prompts, tokens))]
        if not isinstance(error, NotNow):
            self.stop = self.stop or error
            return []
        question.tries += 1
        if question.tries < self.asking.tries:
            wait_s = self.asking.first_wait_s * 2.0 ** (question.tries - 1)
            wait_s = min(wait_s, self.asking.longest_wait_s) * random.uniform(0.5, 1.5)
            self.number += 1
            due_s = time.monotonic() + max(wait_s, error.after_s or 0.0)
            heapq.heappush(self.waiting, (due_s, self.number, question))
            return []
        reason = f"no answer in {self.asking.tries} tries"
        self.unproven.append(
            (question.index, Ended("failed", reason, None, question.prompts, tokens))
        )
        if len(self.unproven) < self.asking.give_up_after or self.stop is not None:
            return []
        if self._still_answers():  # these items alone are never answered
            failed, self.unproven = self.unproven, []
            return failed
        self.stop = DataError(
            f"synthesis: {len(self.unproven)} items in a row failed after {self.asking.tries} "
            f"tries each, and nothing was answered ({error}); see to the server and run again"
        )
        return []

    def _still_answers(self) -> bool:
        """Ask again what the writer has answered once: behind a kill, all that is left may fail."""
        journal = self.folder.journal
        known = (one for one in self.folder.items if journal.get(one.id, ("",))[0] == "written")
        item = next(known, None)
        prompt = None if item is None else self.step.ask(item, [])
        if item is None or prompt is None:
            return False
        for _ in range(PROOFS):
            try:
                self.spent += self.writer(prompt, seed=item_seed(item, self.seed)).tokens
            except NotNow:
                time.sleep(self.asking.first_wait_s)
            except CannotAnswer:
                return True  # it is there, and refuses
            else:
                return True
        return False

    def _show(self) -> None:
        now_s = time.monotonic()
        if not self.asking.progress or now_s - self.shown_s < EVERY_S:
            return
        self.shown_s = now_s
        since_s = now_s - self.begin_s
        counts = Counter(outcome for outcome, _ in self.folder.journal.values())
        reasons = Counter(why for what, why in self.folder.journal.values() if what == "rejected")
        most = ", ".join(f"{why}: {n:,}" for why, n in reasons.most_common(3))
        ended = counts.total()
        left = len(self.folder.items) - ended
        news = ended - self.ended_before
        left_s = f"{left * since_s / news / 60:.1f} min" if news else "time unknown"
        price = self.asking.price_per_million
        cost = "" if price is None else f", cost {self.spent * price / 1e6:.2f}"
        print(
            f"{self.step.name}: {counts['written']:,} written, {counts['rejected']:,} rejected"
            f"{f' ({most})' if most else ''}, {counts['failed']:,} failed, {left:,} left "
            f"({left_s}); {self.answered / since_s:.1f} answers/s, "
            f"{len(self.waiting)} to be tried again, {self.spent:,} tokens{cost}",
            file=sys.stderr,
            flush=True,
        )


def _key(model: str, seed: int, turn: int, prompt: str) -> str:
    data = json.dumps([model, seed, turn, prompt])
    return hashlib.sha256(data.encode()).hexdigest()
