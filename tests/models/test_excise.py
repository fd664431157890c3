"""A mode cut out of a model: what is left computes the same, and the rows are gone."""

import sys

import pytest
import torch

from prealign.cli import main
from prealign.errors import ConfigError, DataError
from prealign.guard.gate import Guard
from prealign.guard.policy import lock
from prealign.guard.table import table_of
from prealign.models.create import LlamaShape, make_model
from prealign.models.excise import excise, excise_folder, kept_ids, without_mode
from prealign.models.fake import BiasedModel
from prealign.models.files import LoadedModel, load_model, save_model
from prealign.models.sample import Sampling, sample
from prealign.text.scheme import GOOD_BAD, TWO_MODES
from prealign.tokens.vocabulary import Vocabulary


def loaded(vocabulary, scheme, *, tied=True):
    v = Vocabulary(vocabulary.tokenizer, scheme)
    shape = LlamaShape(width=32, layers=2, heads=4, max_tokens=96, tied=tied)
    model = make_model(shape, v.size, seed=0).eval()
    for weight in model.parameters():
        weight.data *= 4
    return LoadedModel(model, v)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("scheme", "mode", "left"),
    [
        (TWO_MODES, "human", ["<ai>", "</ai>", "<quote>", "</quote>"]),
        (TWO_MODES, "ai", ["<human>", "</human>"]),  # the quote stands in it
        (TWO_MODES, "quote", ["<human>", "</human>", "<ai>", "</ai>"]),
        (GOOD_BAD, "bad", ["<|good|>"]),
    ],
)
def test_logits_of_all_kept_ids_are_the_same(vocabulary, tied, scheme, mode, left):
    whole = loaded(vocabulary, scheme, tied=tied)
    old = whole.vocabulary
    text = torch.randint(0, old.text_size, (2, 30), generator=torch.Generator().manual_seed(0))
    tags_before = torch.tensor([[old.end_id, *(old.tag_ids[tag] for tag in left)]] * 2)
    before = whole.model(torch.cat([tags_before, text], dim=1)).logits.detach()
    weights = {k: v.clone() for k, v in whole.model.state_dict().items()}

    model, new = excise(whole, mode)

    assert list(new.tag_ids) == left
    assert new.tokenizer.to_str() == old.tokenizer.to_str()
    assert (new.text_size, new.end_id) == (old.text_size, old.end_id)
    tags_after = torch.tensor([[new.end_id, *(new.tag_ids[tag] for tag in left)]] * 2)
    after = model(torch.cat([tags_after, text], dim=1)).logits
    kept = kept_ids(old, new)
    assert after.shape[-1] == new.size == model.config.vocab_size == len(kept)
    assert torch.allclose(after, before[..., kept], rtol=0, atol=1e-4)
    assert float(before.abs().max()) > 1  # the logits say something
    for name, value in model.state_dict().items():
        per_id = name in ("model.embed_tokens.weight", "lm_head.weight")
        assert torch.equal(value, weights[name][kept] if per_id else weights[name]), name
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


def test_the_kept_ids_by_hand(vocabulary):
    old = Vocabulary(vocabulary.tokenizer, TWO_MODES)
    new = Vocabulary(vocabulary.tokenizer, without_mode(TWO_MODES, "human"))
    assert kept_ids(old, new)[260:].tolist() == [260, 261, 262, 265, 266, 267, 268, 269]
    assert new.size == 268


def test_a_mode_that_there_is_not_and_the_last_one_are_refused(vocabulary):
    with pytest.raises(DataError, match="mode 'good' is not in scheme"):
        excise(loaded(vocabulary, TWO_MODES), "good")
    with pytest.raises(ConfigError, match="no mode left"):
        without_mode(without_mode(GOOD_BAD, "bad"), "good")


def test_weights_per_id_elsewhere_are_seen(vocabulary):
    whole = loaded(vocabulary, TWO_MODES)

    def by_id(module, arguments, output):
        count = output.shape[-1]
        return output + torch.arange(count) * 0.1

    whole.model.lm_head.register_forward_hook(by_id)
    with pytest.raises(DataError, match="weights per id beyond"):
        excise(whole, "human")


def test_a_folder_is_written_that_loads_without_a_trace_of_the_mode(vocabulary, tmp_path):
    whole = loaded(vocabulary, TWO_MODES)
    save_model(tmp_path / "m", whole.model, whole.vocabulary, card="# mine\n", guard={"x": 1})
    cut = excise_folder(tmp_path / "m", "human", tmp_path / "cut")
    again = load_model(tmp_path / "cut")
    assert again.vocabulary == cut.vocabulary
    assert load_model(tmp_path / "m").vocabulary == whole.vocabulary  # the old one stands
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, cut.model.state_dict()[name])
    names = {file.name for file in (tmp_path / "cut").iterdir()}
    assert "guard.json" not in names
    assert "human" not in (tmp_path / "cut" / "scheme.json").read_text().replace(
        "without human", ""
    )
    card = (tmp_path / "cut" / "README.md").read_text()
    assert card.count("## Use") == 1
    assert card.startswith("# mine\n")
    assert "`<human>`, `</human>` were cut out" in card
    with pytest.raises(ConfigError, match="is there already"):
        excise_folder(tmp_path / "m", "human", tmp_path / "cut")


def test_behind_a_plain_lock_the_smaller_scheme_is_served(vocabulary):
    _, new = excise(loaded(vocabulary, TWO_MODES), "human")
    policy = lock(new.scheme, "ai")
    guard = Guard(table_of(new, policy))
    model = BiasedModel(new.size, dict.fromkeys(range(new.text_size, new.size), 10000.0))
    prompt = [new.end_id, *guard.table.opening()]
    settings = Sampling(max_text_tokens=20, temperature=1.0)
    (one,) = sample(model, [prompt], settings, seeds=[0], vocabulary=new, guard=guard)
    assert guard.fired == 0
    assert new.decode([*prompt, *one.ids]).spans[0].mode == "ai"


def test_the_command_cuts_and_says_what_is_left(vocabulary, tmp_path, monkeypatch, capsys):
    whole = loaded(vocabulary, TWO_MODES)
    save_model(tmp_path / "m", whole.model, whole.vocabulary, card="# mine\n")
    words = ["prealign", "guard", "excise", str(tmp_path / "m"), "--mode", "human"]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(tmp_path / "cut")])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert not leaving.value.code
    assert "268 ids, modes: ai, quote; serve it under a lock" in capsys.readouterr().out
    assert load_model(tmp_path / "cut").vocabulary.size == 268
    with pytest.raises(SystemExit) as leaving:  # it is there now
        main()
    assert leaving.value.code == 2
    assert capsys.readouterr().err.startswith(f"prealign: {tmp_path / 'cut'}: is there already")
