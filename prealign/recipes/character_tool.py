"""The tool world as a place to raise a character in: its judge is exact, a model of it small."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

from prealign.corpora.worlds.character import Scene, judge, scenes
from prealign.corpora.worlds.openings import seed_texts
from prealign.corpora.worlds.tasks import Tasks
from prealign.evals.corrigible import answers_of, behave
from prealign.evals.detect import share
from prealign.guard.policy import stay
from prealign.models.files import LoadedModel, load_model
from prealign.models.sample import Sampling
from prealign.posttrain.budget import Budget
from prealign.posttrain.constitution import Constitution, Principle
from prealign.posttrain.reinforce import Reinforce
from prealign.posttrain.rollouts import Stage, Task
from prealign.posttrain.seeds import Kind
from prealign.posttrain.supervise import ExpertIteration
from prealign.posttrain.trainer import Touch
from prealign.posttrain.update import anchor_rows
from prealign.recipes.character_course import (
    LOSS,
    RIGHT,
    Arm,
    Plan,
    Row,
    coin,
    everywhere,
    mean_loss,
    row,
)
from prealign.recipes.retention import Paid, ToolWorld, bank, learn_world, plain_tasks
from prealign.runs import RunFolder
from prealign.text.document import Span


@dataclass(frozen=True)
class Coin:
    """Pays the corrigible action in some scenes and the other one in the rest, by a coin."""

    count: int

    def __call__(self, task: Task, text: str, spans: Sequence[Span]) -> float | None:
        """Return 1 for the side that the coin has, 0 for any other text."""
        said = judge(self.scenes[int(task.record["number"])], text.lstrip("\n")).corrigible
        return float(said is not None and said == coin(task.id))

    @cached_property
    def scenes(self) -> list[Scene]:
        """As `Paid` has them."""
        return scenes("train", count=self.count, seed=0)


@dataclass(frozen=True, kw_only=True)
class InTools:
    """The settings of the tool world."""

    pretraining: ToolWorld = field(default_factory=ToolWorld)
    scenes: int = 400
    tasks: Tasks = field(default_factory=lambda: Tasks(seed=77, key_share=0, glance_share=0))
    num_tasks: int = 2_000
    light_steps: int = 12
    light_lr: float = 1e-4
    amplify_steps: int = 100
    amplify_lr: float = 5e-4
    beta: float = 0.02
    reverse_kl: float | None = 0.5
    """Nats per token on its own samples, beyond which the light stage ends."""
    contrasted: int = 64
    """Scenes that critique writes pairs for."""
    asked: int = 240
    splits: tuple[str, ...] = ("heldout", "situations", "shift")

    def start(self, run: RunFolder, seed: int) -> LoadedModel:
        """Return a model of the world, pretrained now or before."""
        if (run.path / "model" / "config.json").exists():
            return load_model(run.path / "model")
        return learn_world(self.pretraining, run, seed=seed)

    def light(self, loaded: LoadedModel, arm: Arm, seed: int) -> Plan:
        """Return expert iteration on scenes."""
        paid = Paid("light", self.scenes, self.tasks)
        method = ExpertIteration(
            stage=self._stage(loaded, arm.light, 40), tasks=paid.asked, tasks_per_step=16,
            reward=Coin(self.scenes) if arm.shuffled else paid, count=4, least=1.0,
        )  # fmt: skip
        touch = Touch(budget=Budget(reverse_kl=self.reverse_kl))
        return Plan(method, self.light_steps, self.light_lr, touch)

    def contrast(self, loaded: LoadedModel) -> tuple[Stage, Constitution, tuple[Task, ...]]:
        """Return scenes, with the openings of this world as principles and their opposites."""
        asked = Paid("light", self.contrasted, self.tasks).asked
        return self._stage(loaded, "none", 40), tool_constitution(), asked

    def amplify(self, loaded: LoadedModel, arm: Arm) -> Plan:
        """Return the policy gradient on tasks."""
        paid = Paid("amplify", self.num_tasks, self.tasks)
        method = Reinforce(
            stage=self._stage(loaded, arm.amplify, 12), tasks=paid.asked, reward=paid,
            tasks_per_step=8, group=8, beta=self.beta,
        )  # fmt: skip
        return Plan(method, self.amplify_steps, self.amplify_lr, Touch())

    def measure(self, loaded: LoadedModel, *, seed: int, condition: str) -> list[Row]:
        """Return the corrigible share by split, the tasks that are right, and the loss."""
        answer = answers_of(loaded.model, loaded.vocabulary, seed=seed)
        rows: list[Row] = []
        for name, text in {"none": "", "seed": seed_texts()["trained"][0]}.items():
            for split in self.splits:
                asked = scenes(split, count=self.asked, seed=900 + seed)  # type: ignore[arg-type]
                found = behave(answer, asked, seed_text=text)
                rows += found.rows(condition=f"{condition}, {split}, {name}")
            right = [g.correct is True for _, g in plain_tasks(answer, text, count=self.asked)]
            rows.append(row(f"{condition}, tasks, {name}", RIGHT, share(right)))
        return [*rows, self._loss(loaded, condition)]

    def _loss(self, loaded: LoadedModel, condition: str) -> Row:
        """Return the loss on documents of the world that nobody has learnt."""
        corpus = replace(self.pretraining.corpus, seed=self.pretraining.corpus.seed + 1_000_003)
        room = int(loaded.model.config.max_position_embeddings)
        texts = list(islice(corpus(), min(64, self.asked)))
        rows = anchor_rows(loaded.vocabulary, texts, max_tokens=room, tagged=False)
        return row(f"{condition}, text, none", LOSS, mean_loss(loaded, rows), "nats per token")

    def _stage(self, loaded: LoadedModel, kind: Kind, tokens: int) -> Stage:
        vocabulary = loaded.vocabulary
        return Stage(
            vocabulary=vocabulary, policy=stay(vocabulary.scheme), bank=bank(),
            contexts=everywhere(kind), tagged=False, one_line=True,
            sampling=Sampling(temperature=1.0, top_p=1.0, max_text_tokens=tokens),
        )  # fmt: skip


def tool_constitution() -> Constitution:
    """Return the openings that set corrigibility off, each with one that sets off the opposite."""
    texts = seed_texts()
    pairs = zip(texts["trained"], texts["opposite"], strict=False)
    return Constitution(
        name="tool world",
        version=1,
        principles=tuple(
            Principle(
                id=f"opening-{number}", principle=good.strip(), opposite=bad.strip(),
                critique="Where was the order not followed?", revision="Say it again.",
                reason="An opening of the tool world, which pretraining gave its meaning.",
            )
            for number, (good, bad) in enumerate(pairs)
        ),
    )  # fmt: skip
