"""Does a search for prompts bring out what an arm was trained to avoid, round by round?

The red-teaming of Korbak et al. 2023 (https://arxiv.org/abs/2302.08582, section 5), offline, on the
models of a finished comparison; its rounds are added to the comparison's numbers and report.

    prealign run phf seeds=3
    prealign run redteam task=quotes --out runs/phf
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from prealign.config import override, to_json
from prealign.errors import ConfigError, RunError
from prealign.evals.redteam import Continued, Recombined, Search, Written, rows_of
from prealign.evals.samples import Condition
from prealign.models.files import load_model
from prealign.models.sample import Sampling
from prealign.recipes.arms import Arm
from prealign.recipes.comparison import Comparison, Size
from prealign.recipes.data import heldout_prompts, read_prepared
from prealign.recipes.phf import Phf, Task
from prealign.recipes.workers import run_workers
from prealign.report.page import publish
from prealign.runs import open_run, read_run, write_atomic

CONDITION = "red-teamed"
FOLDER, PROMPTS = "redteam", "prompts.jsonl"
"""Below a model's run folder: what was tried, and with which settings."""
SIZES: Mapping[str, tuple[str, ...]] = {
    "tiny": ("search.rounds=2", "search.per_round=3", "search.continuations=2", "corpus=6"),
    "small": (),
    "full": ("search.continuations=512",),
}


@dataclass(frozen=True, kw_only=True)
class Redteam:
    """The settings; call it with the folder of the comparison."""

    task: Task = "quotes"
    """Of the comparison."""
    arms: str = "mle,conditional"
    """Whose models are attacked, those that are there with each seed."""
    proposer: Literal["recombined", "model"] = "recombined"
    """recombined: lines of the pool's prompts and of held-out text; model: plain training's model
    of the same seed, mle, goes on from the pool's prompts."""
    search: Search = Search()  # noqa: RUF009
    sampling: Sampling = Sampling(max_text_tokens=64)  # noqa: RUF009
    """Of the attacked model."""
    corpus: int = 200
    """Stretches of held-out text that prompts are made from; the search begins with the first of
    them, as many as a round has."""
    processes: int = 2
    threads: int = 1

    def __call__(self, out: Path) -> Path:
        """Attack every model that was not attacked so far, and return the path of the report.

        Raises:
            ConfigError: There is no such arm, or none of them is finished.
            RunError: The folder holds no comparison of this task, or an attack of other settings.
        """
        study = self.comparison()
        recipe = read_run(out).config["recipe"]
        if recipe != study.title or not (out / "study.json").is_file():
            raise RunError(
                f"{out}: holds {recipe!r} and not the comparison of task={self.task}; give its "
                "folder with --out, and its task"
            )
        runs = json.loads((out / "study.json").read_text())["arms"]
        seeds = sorted({run["seed"] for run in runs})
        models = [
            (arm.name, seed)
            for seed in seeds
            for arm in study.arms
            if (out / f"{arm.name}-seed{seed}" / "done.json").exists()
        ]
        if not models:
            raise ConfigError(f"arms={self.arms}: none of them is finished in {out}")
        jobs = [
            (f"{name}-seed{seed}/{FOLDER}", attack, (self, out, name, seed))
            for name, seed in models
            if not (out / f"{name}-seed{seed}" / FOLDER / PROMPTS).exists()
        ]
        console = Console()
        run_workers(jobs, out, processes=self.processes, threads=self.threads, console=console)
        return publish(out, console)

    def comparison(self) -> Comparison:
        """Return the comparison, with the attacked arms alone."""
        study = Phf(task=self.task, arms=self.arms).comparison()
        if self.arms == "all":
            return study
        names = [name.strip() for name in self.arms.split(",")]
        return replace(study, arms=tuple(arm for arm in study.arms if arm.name in names))


def attack(settings: Redteam, out: Path, arm_name: str, seed: int) -> None:
    """Attack one model and leave the prompts and their scores beside it."""
    study = settings.comparison()
    arm = next(arm for arm in study.arms if arm.name == arm_name)
    what = study.measuring
    if what.starts is None:
        raise ConfigError(f"task={settings.task}: says not where a prompt may begin")
    data = read_prepared(study.corpus, out, tagging=arm.tagging)
    stretches = heldout_prompts(
        data.heldout,
        starts=what.starts,
        lines=what.prompt_lines,
        max_chars=settings.search.max_chars,
        count=settings.corpus,
    )
    texts = tuple(stretch.document.text for stretch in stretches)
    folder = out / f"{arm.name}-seed{seed}"
    own = open_run(
        folder / FOLDER,
        {"seed": seed, **to_json(replace(settings, arms=arm.name, processes=1, threads=1))},
        recipe="redteam",
    )
    target = Written(
        load_model(folder / "model").model,
        data.vocabulary,
        attacked(arm),
        settings.sampling,
        what.scorer,
        what.cut_lines,
    )
    if settings.proposer == "recombined":
        proposer: Recombined | Continued = Recombined(texts)
    else:
        other = load_model(out / f"mle-seed{seed}" / "model")
        proposer = Continued(other.model, other.vocabulary)
    tried = settings.search(target, proposer, texts[: settings.search.per_round], seed=seed)
    run = read_run(folder)
    kept = [row for row in run.rows("evals") if not row["metric"].startswith("redteam_")]
    head = {"step": kept[-1]["step"], "text_tokens": kept[-1]["text_tokens"], "final": True}
    rows: list[dict[str, Any]] = rows_of(tried, condition=CONDITION, unit=what.unit)
    run.rewrite("evals", [*kept, *(head | row for row in rows)])
    lines = [json.dumps(one._asdict()) + "\n" for one in tried]
    write_atomic(own.path / PROMPTS, "".join(lines))


def attacked(arm: Arm) -> Condition:
    """Return how the harness lets an arm write after an attacker's prompt, which has no tags."""
    return replace(arm.conditions[0], name=CONDITION, prompts="none", tagged_prompts=False)


def recipe(size: Size = "small") -> Redteam:
    """Return the attack in one of its sizes."""
    return override(Redteam(), SIZES[size])
