"""A toy: a prompt asks for a letter, the answer is right if it begins with it."""

from dataclasses import dataclass

from prealign.guard.policy import lock
from prealign.models.create import LlamaShape, make_model
from prealign.models.sample import Sampling
from prealign.posttrain.contexts import preset
from prealign.posttrain.reinforce import Reinforce
from prealign.posttrain.rollouts import Stage, Task
from prealign.posttrain.seeds import Seed, SeedBank
from prealign.posttrain.trainer import Settings, posttrain
from prealign.runs import RunFolder
from prealign.text.document import Document, Span
from prealign.text.scheme import TWO_MODES
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary
from prealign.train.settings import TrainSettings

LETTERS = "abcd"
VOCABULARY = Vocabulary(train_text_tokenizer(["ab cd"], size=258), TWO_MODES)
SHAPE = LlamaShape(width=32, layers=2, heads=2, max_tokens=64)


def a_seed(kind, text):
    return Seed(id=f"{kind}-{text}", kind=kind, text=text, reason="for a test")


BANK = SeedBank(
    name="toy",
    version=1,
    seeds=(a_seed("trained", "xx"), a_seed("trained", "yy"), a_seed("opposite", "nono")),
)


def letter_task(letter):
    document = Document(id=letter, text=letter, spans=(Span(0, 1, "human"),))
    return Task(document, {"answer": letter})


TASKS = tuple(letter_task(letter) for letter in LETTERS)


def right(task, text, spans):
    """1 for the letter, 0 for any other text, an empty one too."""
    assert "".join(text[s.start_char : s.end_char] for s in spans) == text
    assert all(span.mode in ("ai", "quote") for span in spans)
    return float(text.startswith(task.record["answer"]))


@dataclass(frozen=True)
class Graded:
    """Rewards that tell more: how near a text's first letter is."""

    def __call__(self, task, text, spans):
        if not text:
            return -1.0
        return -min(abs(ord(text[0]) - ord(task.record["answer"])), 30) / 30


def a_stage(contexts="plain", **changes):
    usual = {
        "vocabulary": VOCABULARY,
        "policy": lock(TWO_MODES, "ai", nested=False),
        "bank": BANK,
        "contexts": preset(contexts),
        "sampling": Sampling(temperature=1.0, top_p=1.0, max_text_tokens=2),
        "seed_mode": "human",
    }
    return Stage(**usual | changes)


def a_model(seed=0):
    return make_model(SHAPE, VOCABULARY.size, seed=seed)


def train_settings(**changes):
    usual = {"lr": 3e-3, "weight_decay": 0.0, "precision": "fp32", "log_every_steps": 1}
    return TrainSettings(**usual | {"warmup_share": 0.0, "lr_floor_share": 1.0} | changes)


def a_method(**changes):
    usual = {"stage": a_stage(), "tasks": TASKS, "reward": Graded(), "tasks_per_step": 4}
    return Reinforce(**usual | {"group": 4} | changes)


def folder_at(path):
    path.mkdir(parents=True, exist_ok=True)
    return RunFolder(path)


def trained(path, method, *, steps, model=None, touch=None, stop=None, **changes):
    """Post-train a fresh model; return it and the outcome."""
    own = {k: changes.pop(k) for k in ("lora", "seed") if k in changes}
    model = model if model is not None else a_model()
    settings = Settings(steps=steps, train=train_settings(**changes), **own)
    outcome = posttrain(
        model, method, settings, folder_at(path), touch=touch, stop_after_steps=stop
    )
    return model, outcome


def score(model, stage, reward=right, count=16):
    """Return the mean reward of fresh samples."""
    written = stage.write(model, TASKS, 0, count=count, seed=99)
    rewards = [reward(one.task, one.text, one.spans) for one in written]
    return sum(rewards) / len(rewards)
