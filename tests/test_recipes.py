"""Every recipe, in its smallest size, as a user would start it."""

import json
import sys

import pytest

from prealign.cli import main
from prealign.recipes import redteam
from prealign.recipes.redteam import attack
from prealign.recipes.results import main as summarise
from prealign.recipes.results import read_finals
from prealign.report.page import write_report

TINIER = [
    "size=tiny", "text_tokens=6000", "train.batch_rows=4", "train.log_every_steps=1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "more", "conditions"),
    [
        pytest.param(
            "first_steps",
            ["share=0.05", "samples=4", "vocab_size=512"],
            4,
            marks=pytest.mark.slow,  # CI runs it after the others: it is the README's first command
        ),
        pytest.param(
            "pep8",
            ["corpus.share=0.08", "corpus.vocab_size=512", "measuring.samples=4",
             "measuring.sampling.max_text_tokens=24", "corpus.heldout_share=0.3"],
            10,
            marks=pytest.mark.slow,  # the comparison is that of phf
        ),
        pytest.param(
            "phf",
            ["corpus_share=0.05", "vocab_size=512", "samples=4", "arms=conditional"],
            5,
            marks=pytest.mark.slow,  # CI runs it too
        ),
    ],
)  # fmt: skip
@pytest.mark.timeout(400)  # several processes import torch, on a machine that may be busy
def test_a_recipe_runs_ends_and_is_left_alone_when_it_is_done(
    recipe, more, conditions, monkeypatch, tmp_path, capfd
):
    out = tmp_path / "run"
    command = ["prealign", "run", recipe, *TINIER, *more, "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as leaving:
        main()
    said = capfd.readouterr()
    assert not leaving.value.code, said.err
    assert "report.html" in said.out.replace("\n", "")
    study = json.loads((out / "study.json").read_text())
    assert [arm["arm"] for arm in study["arms"]] == ["mle", "conditional"]
    for arm in study["arms"]:
        run = out / arm["folder"]
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert rows[-1]["step"] == rows[-1]["steps"]
        assert rows[-1]["text_tokens"] == 6000
        assert (run / "model" / "scheme.json").exists()
    samples = (out / "conditional-seed0" / "samples.jsonl").read_text().splitlines()
    assert len({json.loads(line)["condition"] for line in samples}) == conditions
    if recipe == "phf":
        is_attacked(out)
    weights = out / "mle-seed0" / "model" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    with pytest.raises(SystemExit):
        main()
    assert weights.stat().st_mtime_ns == written


def is_attacked(out):
    """A finished comparison can be red-teamed; its numbers get the rounds and keep the rest."""
    before = read_finals(out)
    for arm in ("mle", "conditional"):
        attack(redteam.recipe("tiny"), out, arm, 0)
    for was, final in zip(before, read_finals(out), strict=True):
        assert final.rows[: len(was.rows)] == was.rows
        rounds = [row["metric"] for row in final.rows if row["condition"] == "red-teamed"]
        assert rounds[:3] == ["redteam_round_0", "redteam_round_1", "redteam_round_2"]
        lines = (out / f"{final.arm}-seed0/redteam/prompts.jsonl").read_text().splitlines()
        assert {json.loads(line)["round"] for line in lines} == {0, 1, 2}
    assert "Red-teaming" in write_report(out).read_text()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_labels_of_a_file_become_a_pair_of_models_and_a_report(monkeypatch, tmp_path, capfd):
    file = tmp_path / "mine.csv"
    kind = ["thank you so much", "what a lovely day", "I agree with you", "see you soon"]
    rude = ["shut up you fool", "what a stupid fool", "I hate you fool", "you stupid liar"]
    lines = [
        f"{(rude if i % 3 == 0 else kind)[i % 4]} {i} times,{'bad' if i % 3 == 0 else 'fine'}\n"
        for i in range(400)
    ]
    file.write_text("said,how\n" + "".join(lines))
    out = tmp_path / "run"
    command = ["prealign", "run", "labels", *TINIER, f"path={file}", "text=said", "label=how",
               "bad=bad", "vocab_size=300", "samples=4", "--out", str(out)]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as leaving:
        main()
    said = capfd.readouterr()
    assert not leaving.value.code, said.err
    assert "the classifier tells bad from good held-out texts" in said.out.replace("\n", " ")
    meta = json.loads((out / "classifier" / "classifier.json").read_text())
    assert meta["heldout"]["auc"] > 0.9
    samples = (out / "conditional-seed0" / "samples.jsonl").read_text().splitlines()
    assert {json.loads(line)["condition"] for line in samples} == {"good", "no tag", "bad"}
    assert (out / "report.html").exists()
    assert summarise(["labels", str(out), str(tmp_path / "labels.json")]) == 0
    found = json.loads((tmp_path / "labels.json").read_text())
    (auc,) = (row["value"] for row in found["rows"] if row["metric"] == "auc")
    assert auc == meta["heldout"]["auc"]
    assert found["checks"][0]["value"].startswith("400 texts")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_modes_trains_and_asks_every_model(monkeypatch, tmp_path):
    out = tmp_path / "run"
    command = ["prealign", "run", "two_modes", "size=tiny", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as leaving:
        main()
    assert not leaving.value.code
    rows = [
        json.loads(line)
        for path in sorted(out.glob("*/evals.jsonl"))
        for line in path.read_text().splitlines()
    ]
    asked = {row["condition"].partition(":")[0] for row in rows if row["metric"] == "bad_share"}
    assert not list(out.glob("*/*/checkpoints"))
    arms = {"mle", "filtered", "free", "prefix-only", "lock", "lock-noquote", "untagged",
            "tags-late lock", "excised"}  # fmt: skip
    assert asked == arms | {f"{arm} after sums" for arm in arms}
    left = {row["condition"]: row["value"] for row in rows if row["metric"] == "left_share"}
    assert not any(share for name, share in left.items() if name.startswith("lock"))


def test_labels_without_a_file_say_what_to_give(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(sys, "argv", ["prealign", "run", "labels", "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 2
    assert "needs a file: path=FILE.csv" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_other_settings_do_not_touch_a_run_that_is_there(monkeypatch, tmp_path, capfd):
    out = tmp_path / "run"
    out.mkdir()
    settings = {"recipe": "first_steps", "settings": {"text_tokens": 1}}
    (out / "config.json").write_text(json.dumps(settings))
    monkeypatch.setattr(sys, "argv", ["prealign", "run", "first_steps", "--out", str(out)])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 2
    assert "holds another run" in capfd.readouterr().err
    assert [path.name for path in out.iterdir()] == ["config.json"]
