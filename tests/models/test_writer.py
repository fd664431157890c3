"""A model in this process as a writer: what it draws, when it stops, and that seeds decide."""

import threading

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prealign.ask.answer import CannotAnswer
from prealign.corpora.synthesis.folder import provenance
from prealign.corpora.synthesis.run import Asking, synthesize
from prealign.corpora.synthesis.step import Wanted, grid
from prealign.corpora.synthesis.write import WriteText
from prealign.errors import ConfigError, DataError
from prealign.models.choose import uniforms
from prealign.models.files import save_model
from prealign.models.writer import LocalWriter, _loaded, digest, prompt_ids

WORDS = ["[UNK]", "[END]", "a", "b", "c", "d", ".", "how"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small random model, with 5 ids above those of its tokenizer, as for tags."""
    path = tmp_path_factory.mktemp("writers") / "tiny"
    inner = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", eos_token="[END]"
    ).save_pretrained(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS) + 5, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64, eos_token_id=1, bos_token_id=None,
        initializer_range=0.5,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def writer(folder, **more) -> LocalWriter:
    return LocalWriter(path=str(folder), **{"max_new_tokens": 20, "top_p": 1.0, **more})


def test_the_same_prompt_and_seed_give_the_same_answer_whatever_came_between(folder):
    ask = writer(folder)
    first = [ask("how a", seed=seed) for seed in range(8)]
    again = [ask("how a", seed=seed) for seed in reversed(range(8))][::-1]
    assert first == again
    assert len({answer.text for answer in first}) > 3
    assert ask("how a") == first[0]


def test_the_likeliest_words_are_those_that_generate_writes(folder):
    model, tokenizer, _ = _loaded(str(folder), "cpu", "")
    ids = torch.tensor([prompt_ids(tokenizer, "how a b")])
    theirs = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False,
        pad_token_id=1, suppress_tokens=list(range(len(WORDS), len(WORDS) + 5)),
    )[0, 3:]  # fmt: skip
    answer = writer(folder, temperature=0.0)("how a b", seed=7)
    assert answer.text == tokenizer.decode(theirs, skip_special_tokens=True)


def test_ids_that_the_tokenizer_does_not_know_are_never_drawn(folder):
    model, tokenizer, _ = _loaded(str(folder), "cpu", "")
    with torch.no_grad():
        model.lm_head.weight[len(WORDS) :] *= 100.0
    ids = prompt_ids(tokenizer, "how")
    for seed in range(20):
        new = writer(folder)._write(model, len(tokenizer), frozenset({1}), ids, seed)
        assert all(0 <= id < len(WORDS) and id != 1 for id in new)
        assert len(new) <= 20
    _loaded.cache_clear()


def test_each_draw_has_a_number_of_its_own(folder):
    """Where all 8 words are as likely, the draw at each place says which it is."""
    model, tokenizer, _ = _loaded(str(folder), "cpu", "")
    with torch.no_grad():
        model.lm_head.weight.zero_()
    new = writer(folder)._write(model, len(tokenizer), frozenset(), [7], seed=5)
    assert new == [int(uniforms([5], [place])[0] * len(WORDS)) for place in range(20)]
    assert len(set(new)) > 4
    _loaded.cache_clear()


def test_a_folder_that_prealign_saved_begins_and_ends_with_its_end_of_text(
    tmp_path, model, vocabulary
):
    save_model(tmp_path / "m", model, vocabulary, card="")
    asked = LocalWriter(path=str(tmp_path / "m"), max_new_tokens=4, temperature=0.0)
    seen = []
    loaded, _, end_id = _loaded(asked.path, "cpu", "")
    assert end_id == vocabulary.end_id
    inner = loaded.forward

    def biased(**given):
        """Write nothing but tags, and the end in third place."""
        out = inner(**given)
        seen.append(given["input_ids"].tolist())
        out.logits[..., list(vocabulary.tag_ids.values())] = 1e4
        out.logits[..., end_id] = 1e3 if len(seen) == 3 else -1e3
        return out

    loaded.forward = biased
    answer = asked("x = 1")
    assert seen[0][0][0] == end_id
    assert len(seen) == 3
    assert answer.tokens == len(seen[0][0]) + 2
    _loaded.cache_clear()


def test_a_folder_whose_model_was_changed_is_refused(tmp_path, model, vocabulary):
    place = tmp_path / "m"
    save_model(place, model, vocabulary, card="")
    known = digest(place)
    assert known == digest(place)
    (place / "README.md").write_text("a note decides nothing")
    assert digest(place) == known
    asked = LocalWriter(path=str(place), max_new_tokens=1, weights=known)
    asked("x = 1")
    _loaded.cache_clear()
    with torch.no_grad():
        next(iter(model.parameters())).add_(1.0)
    save_model(place, model, vocabulary, card="")
    assert digest(place) != known
    with pytest.raises(DataError, match="another model than when the run was started"):
        asked("x = 1")


def test_what_does_not_fit_is_not_asked_and_settings_are_checked(folder):
    with pytest.raises(CannotAnswer, match="1 to 44"):
        writer(folder)("how " * 45)
    with pytest.raises(CannotAnswer, match="of 0 tokens"):
        writer(folder)("")
    with pytest.raises(DataError, match="nowhere: cannot be loaded as a writer"):
        LocalWriter(path="./nowhere")("x")
    for wrong in ({"temperature": -1.0}, {"top_p": 0.0}, {"max_new_tokens": 0}):
        with pytest.raises(ConfigError):
            writer(folder, **wrong)
    assert writer(f"{folder}/").name == "tiny"


def test_a_chat_template_frames_the_prompt(folder):
    _, tokenizer, _ = _loaded(str(folder), "cpu", "")
    tokenizer.chat_template = (
        "{% for m in messages %}a {{ m.content }} b {% endfor %}"
        "{% if add_generation_prompt %}c{% endif %}"
    )
    words = [WORDS[id] for id in prompt_ids(tokenizer, "how d")]
    _loaded.cache_clear()
    assert words == ["a", "how", "d", "b", "c"]


def test_the_runner_writes_with_it_in_many_threads_and_the_same_with_one(folder, tmp_path):
    step = WriteText(name="s", template="how {x}", wanted=Wanted(min_chars=1))
    wanted = list(grid("g", copies=3, x=["a", "b", "c", "d"]))
    for threads in (1, 8):
        asking = Asking(concurrency=threads, progress=False)
        synthesize(step, wanted, writer(folder), tmp_path / str(threads), asking=asking)
    one, many = (
        {p.name: p.read_bytes() for p in (tmp_path / t).glob("part-*")} for t in ("1", "8")
    )
    assert one == many
    assert {row["model"] for row in provenance(tmp_path / "1")} == {"tiny"}
    assert threading.active_count() < 8
