import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from prealign.errors import DataError
from prealign.models.create import LlamaShape, make_model
from prealign.models.files import load_model, save_model

IDS = torch.tensor([[1, 5, 9, 200, 17]])


@pytest.fixture
def folder(tmp_path, model, vocabulary):
    save_model(tmp_path / "model", model, vocabulary, card="# A model", guard={"policy": "stay"})
    return tmp_path / "model"


def test_a_saved_model_comes_back_with_its_weights_and_its_vocabulary(folder, model, vocabulary):
    loaded, read = load_model(folder)
    assert not loaded.training
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in loaded.state_dict().items())
    assert torch.equal(loaded(IDS).logits, model.eval()(IDS).logits)
    assert read.fingerprint == vocabulary.fingerprint
    assert read.scheme == vocabulary.scheme


def test_untied_weights_and_half_precision_come_back_as_they_were(tmp_path, vocabulary):
    shape = LlamaShape(width=32, layers=1, heads=2, max_tokens=64, tied=False)
    model = make_model(shape, vocabulary.size, seed=0).bfloat16()
    save_model(tmp_path / "m", model, vocabulary, card="")
    same, wide = load_model(tmp_path / "m").model, load_model(tmp_path / "m", dtype=torch.float32)
    assert same.dtype == torch.bfloat16
    assert wide.model.dtype == torch.float32
    assert torch.equal(wide.model.lm_head.weight, model.lm_head.weight.float())


def test_transformers_loads_the_folder_by_itself(folder, model, vocabulary):
    text = "def f(x):\n    return x <|good|>\n\n\t 1234"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer(text).input_ids == vocabulary.encode_text(text)
    assert tokenizer.decode(vocabulary.encode_text(text)) == text
    assert len(tokenizer) == vocabulary.text_size  # no text is a tag
    assert torch.equal(
        AutoModelForCausalLM.from_pretrained(folder)(IDS).logits, model.eval()(IDS).logits
    )
    generation = GenerationConfig.from_pretrained(folder)
    assert generation.eos_token_id == vocabulary.end_id
    assert generation.pad_token_id == vocabulary.inert_id


def test_the_card_names_every_id_beyond_text_and_the_guard_is_kept(folder, vocabulary):
    card = (folder / "README.md").read_text()
    assert card.startswith("# A model")
    assert f"| {vocabulary.open_id('good')} | `<\\|good\\|>` |" in card
    assert json.loads((folder / "guard.json").read_text()) == {"policy": "stay"}


def test_saving_again_replaces_the_whole_folder(folder, model, vocabulary):
    (folder / "stale.txt").write_text("")
    save_model(folder, model, vocabulary, card="# Another")
    assert not (folder / "stale.txt").exists()
    assert not (folder / "guard.json").exists()
    assert load_model(folder).vocabulary.size == vocabulary.size
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_save_that_fails_leaves_the_old_folder(folder, model, vocabulary, monkeypatch):
    before = (folder / "model.safetensors").read_bytes()

    def fail(path):
        raise OSError("disk full")

    monkeypatch.setattr(model, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(folder, model, vocabulary, card="# Another")
    assert (folder / "model.safetensors").read_bytes() == before
    assert (folder / "README.md").read_text().startswith("# A model")
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_folder_without_its_scheme_is_refused(folder):
    (folder / "scheme.json").unlink()
    with pytest.raises(DataError, match="has no scheme"):
        load_model(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "training_args.bin"])
def test_pickled_files_are_refused_even_beside_safetensors(folder, name):
    (folder / name).write_bytes(b"cos\nsystem\n")
    with pytest.raises(DataError, match=re.escape(name)):
        load_model(folder)


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match="no weights"):
        load_model(folder)


def test_sizes_that_differ_are_refused_on_saving_and_on_loading(tmp_path, folder, vocabulary):
    shape = LlamaShape(width=32, layers=1, heads=2, max_tokens=64)
    other = make_model(shape, vocabulary.size + 1, seed=0)
    sizes = f"{vocabulary.size + 1} rows.*{vocabulary.size} ids"
    with pytest.raises(DataError, match=sizes):
        save_model(tmp_path / "other", other, vocabulary, card="")
    assert not (tmp_path / "other").exists()
    other.save_pretrained(folder)
    with pytest.raises(DataError, match=sizes):
        load_model(folder)
