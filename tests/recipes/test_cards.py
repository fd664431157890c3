"""Cards of models: what the hub reads, what a reader runs, and what a person wrote stays."""

import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import metadata_load
from typer.testing import CliRunner

from prealign.cli import app
from prealign.errors import ConfigError, DataError, RunError
from prealign.guard.policy import lock, stay
from prealign.guard.table import table_of
from prealign.hub import push as hub
from prealign.models.card import Card, Training, read_card, results_table, use_section
from prealign.models.create import LlamaShape, make_model
from prealign.models.excise import excise_folder
from prealign.models.files import load_model, save_model
from prealign.recipes.cards import parameters_of, policies_of, trained_card, write_card
from prealign.runs import open_run
from prealign.text.scheme import GOOD_BAD, TWO_MODES, Mode, Scheme
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary

NASTY = 'x: "y"\n---\n## Use\nlicense: mit'
SHAPE = LlamaShape(width=16, layers=1, heads=2, kv_heads=2, max_tokens=160)


def vocabulary_of(scheme):
    return Vocabulary(train_text_tokenizer(["one two\n"], size=260), scheme)


@pytest.fixture(scope="module")
def two_modes():
    return vocabulary_of(TWO_MODES)


@pytest.fixture
def saved(tmp_path, two_modes):
    """A run folder with a model as a recipe leaves it."""
    run = open_run(tmp_path / "run", {"lr": 0.5, "data": "/home/ada/x.csv"}, recipe="mine")
    run.append("metrics", [{"step": 3, "text_tokens": 1234, "loss": 2.0}])
    row = {"condition": "a|b", "metric": "loss", "unit": "nats", "value": 1.5, "low": 1.0,
           "high": 2.0, "n": 7}  # fmt: skip
    run.append("evals", [row | {"value": 9.0}, row | {"final": True}])
    model = make_model(SHAPE, two_modes.size, seed=0)
    card = trained_card(NASTY, "Why?", Training(settings={"lr": 0.5}, text_tokens=10))
    save_model(run.path / "model", model, two_modes, card=card, policies=policies_of(two_modes))
    return run.path / "model"


def text_of(folder):
    return (folder / "README.md").read_text()


def test_a_recipes_card_is_read_by_the_hub_and_says_what_is_known(saved, two_modes):
    text, data = text_of(saved), metadata_load(saved / "README.md")
    assert data["library_name"] == "transformers"
    assert data["tags"][0] == "prealign"
    assert "license" not in data
    assert '\n# x: "y" --- \\#\\# Use license: mit\n' in text
    assert text.count("\n## Use\n") == 1
    assert text.count("\n---\n") == 1
    assert "text tokens read: 10." in text
    assert "## Licence\n\n**not stated**" in text
    for tag, token in two_modes.tag_ids.items():
        assert f"| {token} | `{tag}` |" in text
    assert two_modes.fingerprint in text
    assert "`quote` encloses its text, only inside `ai`" in text


def test_each_policy_has_the_fingerprint_of_its_guard(saved, two_modes):
    found = policies_of(two_modes)
    assert list(found)[:2] == ["free", "prefix-only human"]
    assert found["lock ai"] == table_of(two_modes, lock(TWO_MODES, "ai")).fingerprint
    assert found["stay"] == table_of(two_modes, stay(TWO_MODES)).fingerprint
    assert len(set(found.values())) == len(found)
    for name, fingerprint in found.items():
        assert f"| `{name}` | `{fingerprint}` |" in text_of(saved)


@pytest.mark.parametrize("scheme", [TWO_MODES, GOOD_BAD, None])
def test_the_lines_that_a_reader_is_given_run(tmp_path, capsys, scheme):
    odd = Scheme(name="`odd", modes=(Mode(name="it's", open="<o|`>"),))
    vocabulary = vocabulary_of(scheme or odd)
    save_model(tmp_path / "m", make_model(SHAPE, vocabulary.size, seed=0), vocabulary, card="# m")
    (lines,) = re.findall(r"```python\n(.*?)```", text_of(tmp_path / "m"), re.DOTALL)
    used = {}
    exec(lines.replace("FOLDER", str(tmp_path / "m")), used)
    assert used["table"].path(used["table"].start()) == ()
    assert len(used["out"][0].ids) > 0
    assert capsys.readouterr().out


def test_the_command_adds_results_and_licence_and_is_the_same_again(saved):
    done = CliRunner().invoke(
        app, ["model", "card", str(saved), "--licence", "Apache-2.0", "--base-model", "ada/b"]
    )
    assert done.exit_code == 0, done.output
    assert "licence apache-2.0" in done.stdout
    text, data = text_of(saved), metadata_load(saved / "README.md")
    assert (data["license"], data["base_model"]) == ("apache-2.0", "ada/b")
    assert "| a\\|b | loss | nats | 1.5 (1 to 2) | 7 |" in text
    assert "| 9 " not in text  # not of the end
    assert "text tokens read: 10." in text  # what the recipe knew stays
    assert CliRunner().invoke(app, ["model", "card", str(saved)]).exit_code == 0
    assert text_of(saved) == text
    loaded = load_model(saved)
    assert parameters_of(saved) == sum(p.numel() for p in loaded.model.parameters())


def test_a_run_that_is_named_says_how_it_was_trained(saved):
    write_card(saved, run=saved.parent)
    text = text_of(saved)
    assert f"text tokens read: 1,234; steps: 3; parameters: {parameters_of(saved):,}." in text
    assert '"data": ".../x.csv"' in text
    assert "/home/ada" not in text
    with pytest.raises(RunError, match="holds no run"):
        write_card(saved, run=saved / "nowhere")


def test_what_a_person_wrote_stays(saved):
    file = saved / "README.md"
    mine = "## Thanks\n\n```\n## no heading\n```\n\nto Ada.\n"
    text = text_of(saved).replace("## Licence", mine + "\n## Licence")
    file.write_text(text.replace("tags:\n", "language: en\ntags:\n- mine\n", 1))
    write_card(saved, licence="My own terms")
    assert mine in text_of(saved)
    data = metadata_load(file)
    assert (data["language"], data["license"]) == ("en", "other")
    assert data["license_name"] == "My own terms"
    assert data["tags"] == ["prealign", "alignment", "mode-tags", "mine"]
    assert text_of(saved).index("## Thanks") < text_of(saved).index("\n## Use\n")
    assert read_card(file).title == 'x: "y" --- \\#\\# Use license: mit'
    write_card(saved, title="a_b")
    assert "\n# a\\_b\n" in text_of(saved)
    file.write_text("---\na: [\n---\n# t\n")
    with pytest.raises(DataError, match="no YAML"):
        write_card(saved)


def test_a_model_without_a_mode_keeps_its_story_and_loses_its_tags(saved):
    excise_folder(saved, "human", saved.parent / "cut")
    write_card(saved.parent / "cut", licence="mit")
    text = text_of(saved.parent / "cut")
    assert "## Without human" in text
    assert "text tokens read: 10." in text
    use = text[text.index("\n## Use\n") :]
    assert "`<human>`" not in use
    assert "`lock ai`" in use
    assert "`lock human`" not in use


def test_a_scheme_without_modes_has_nothing_to_guard():
    text = use_section(vocabulary_of(Scheme(name="none", modes=())))
    assert "Modes: none." in text
    assert "Behind the guard" not in text


def test_long_results_are_cut_and_counted():
    text = results_table([{"condition": "c", "metric": "m", "value": i} for i in range(100)])
    assert text.count("\n| c |") == 60
    assert "40 more are in the run." in text
    assert results_table([]) == ""


def test_no_settings_section_is_made_of_nothing():
    assert "## Training" not in str(Card(title="t").with_section("Training", Training().markdown))


class FakeApi:
    sent: dict = {}  # noqa: RUF012

    def __init__(self, **settings):
        pass

    def create_repo(self, repo, **settings):
        FakeApi.sent["repo"] = (repo, settings["repo_type"])

    def upload_folder(self, *, folder_path, **settings):
        FakeApi.sent["files"] = {file.name for file in Path(folder_path).iterdir()}


def push(saved, *more):
    return CliRunner().invoke(app, ["model", "card", str(saved), "--push", "ada/m", *more])


def test_a_model_goes_out_with_a_licence_and_safetensors_alone(saved, monkeypatch):
    monkeypatch.setattr(hub, "HfApi", FakeApi)
    monkeypatch.setattr(FakeApi, "sent", {})
    refused = push(saved).exception
    assert isinstance(refused, ConfigError)
    assert "the licence of" in str(refused)
    (saved / "old").mkdir()
    for name in ("extra.bin", "old/optimizer.pt"):
        torch.save({}, saved / name)
        refused = push(saved, "--licence", "mit").exception
        assert isinstance(refused, DataError)
        assert f"{name} may be pickled" in str(refused)
        assert FakeApi.sent == {}
        (saved / name).unlink()
    done = push(saved)  # the licence is in the card by now
    assert done.exit_code == 0, done.output
    assert "https://huggingface.co/ada/m" in done.stdout
    assert FakeApi.sent["repo"] == ("ada/m", "model")
    assert {"README.md", "model.safetensors", "scheme.json"} <= FakeApi.sent["files"]


def test_a_folder_without_a_model_is_one_clear_error(tmp_path):
    with pytest.raises(DataError, match=r"has no tokenizer\.json"):
        write_card(tmp_path)
    assert json.dumps(list(tmp_path.iterdir())) == "[]"
