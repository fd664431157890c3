"""The audit: every construction that is known to leak is named, none that does not is accused."""

import json
import subprocess
import sys

import pytest
from leaky_tokenizers import (
    CONSTRUCTIONS,
    FAMILIES,
    KEYS,
    LITERAL,
    MESSAGES,
    PLAIN,
    TAGS,
    byte_level,
    tagged,
    unigram,
    with_template,
    word_level,
)
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from prealign.cli import main
from prealign.errors import ConfigError, DataError
from prealign.guard.audit import audit, audit_subject
from prealign.guard.audit_read import Subject, read_subject
from prealign.guard.audit_report import DEFENCES, defence_of
from prealign.guard.audit_routes import routes
from prealign.guard.hostile import hostile, preimages_of
from prealign.text.scheme import TWO_MODES
from prealign.tokens.tokenizer import check_text_tokenizer, train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary

LEAKY = [name for name, one in CONSTRUCTIONS.items() if one.beats]
FINE = [name for name, one in CONSTRUCTIONS.items() if not one.beats]


def audited(tokenizer, tags=()):
    return audit_subject(Subject(name="t", tokenizer=tokenizer), tags)


def shows(tokenizer, text, tag, *, split):
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.encode_special_tokens = split
    return tokenizer.token_to_id(tag) in tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", LEAKY)
def test_a_construction_that_leaks_is_named_with_a_string_that_really_does(name, tmp_path):
    one = CONSTRUCTIONS[name]
    subject = one.make(tmp_path)
    report = audit_subject(subject, TAGS)
    assert report.verdict(one.beats) == "leaks"
    named = [f for f in report.findings if f.construction == one.called]
    assert any(one.beats in dict(f.shown) for f in named)
    for finding in report.findings:
        for defence, text in finding.shown:
            assert shows(subject.tokenizer, text, finding.tag, split=defence == "split")
            if defence == "escape":
                assert not any(tag in text for tag in TAGS)


@pytest.mark.parametrize("name", FINE)
def test_what_does_not_leak_is_not_accused(name, tmp_path):
    report = audit_subject(CONSTRUCTIONS[name].make(tmp_path), TAGS)
    assert report.verdict("split") == "safe"
    assert report.proofs
    ours = name == "a model of prealign"
    assert report.verdict("nothing") == ("safe" if ours else "leaks")


def test_a_tokenizer_without_tags_is_safe_with_no_defence():
    plain = audited(byte_level(None))
    assert plain.tags == ()
    assert {plain.verdict(one) for one in DEFENCES} == {"safe"}
    asked = audited(byte_level(None), ["<ai>"])
    assert asked.tags == (("<ai>", None),)
    assert "no id stands for '<ai>'" in asked.proofs[0]
    assert asked.verdict() == "safe"


def test_what_is_neither_shown_nor_ruled_out_is_unproven():
    tokenizer = unigram(["<ai>"])
    tokenizer.add_special_tokens([AddedToken("<ai>", special=True, normalized=False)])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("a", "isolated")  # not known to the audit
    report = audited(tokenizer, ["<ai>"])
    assert report.verdict("split") == "unproven"
    (risk,) = [one for one in report.findings if one.risk]
    assert (risk.construction, risk.tag) == ("Unigram vocabulary", "<ai>")


@pytest.mark.parametrize(
    ("pre", "cut"),
    [
        (pre_tokenizers.BertPreTokenizer(), "BertPreTokenizer"),
        (pre_tokenizers.Whitespace(), "Whitespace"),
        (pre_tokenizers.Punctuation(), "Punctuation"),
        (pre_tokenizers.Punctuation("merged_with_next"), None),
        (pre_tokenizers.WhitespaceSplit(), None),
        (pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits()]),
         "Whitespace"),
        (pre_tokenizers.ByteLevel(add_prefix_space=False), "ByteLevel"),
        (pre_tokenizers.ByteLevel(use_regex=False), None),
        (pre_tokenizers.Metaspace(), None),
    ],
)  # fmt: skip
def test_a_pre_tokenizer_that_is_said_to_cut_does_so_around_any_string(pre, cut):
    tokenizer = word_level(["<ai>"])
    tokenizer.pre_tokenizer = pre
    ids = {"<ai>": tokenizer.token_to_id("<ai>")}
    assert routes(json.loads(tokenizer.to_str()), ids)["<ai>"].cut == cut
    parts = [part for text in hostile(["<ai>"]) for part, _ in pre.pre_tokenize_str(text)]
    if cut:
        assert not any("<ai>" in part for part in parts)


def test_ways_through_a_model_by_hand():
    def ways(tags, **model):
        data = {"model": model, "pre_tokenizer": None}
        return {tag: way.construction for tag, way in routes(data, tags).items()}

    vocab = {"<": 0, "a": 1, "<a": 2, "<a>": 3, "<0x41>": 4, "[U]": 5}
    merges = ["< a"]
    assert ways({"<a>": 3}, type="BPE", vocab=vocab, merges=merges) == {}
    assert ways({"<a>": 3}, type="BPE", vocab=vocab, merges=[["<a", ">"]]) == {"<a>": "merge"}
    assert ways({"<": 0}, type="BPE", vocab=vocab, merges=[]) == {"<": "single character"}
    assert ways({"[U]": 5}, type="BPE", vocab=vocab, unk_token="[U]") == {"[U]": "unknown"}
    assert ways({"<0x41>": 4}, type="BPE", vocab=vocab, merges=[]) == {}
    named = {"<0x41>": "byte fallback"}
    assert ways({"<0x41>": 4}, type="BPE", vocab=vocab, byte_fallback=True) == named
    whole = ways({"<a>": 3}, type="BPE", vocab=vocab, ignore_merges=True)
    assert whole == {"<a>": "ignore_merges"}
    prefixed = {"vocab": {"a": 0, "##b": 1, "ab": 2}, "merges": ["a ##b"]}
    prefixed |= {"type": "BPE", "continuing_subword_prefix": "##"}
    assert ways({"ab": 2}, **prefixed) == {"ab": "merge"}
    assert ways({"x": 9}, type="WordLevel", vocab=vocab) == {}
    assert ways({"a": 0}, type="Unigram", vocab=[["a", -1.0]]) == {"a": "Unigram vocabulary"}


def test_characters_that_a_normalizer_turns_into_a_tags_are_found():
    tokenizer = Tokenizer(models.BPE())
    assert preimages_of(tokenizer, TAGS) == {}
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("_"), normalizers.Replace("\u4e00", "<"), normalizers.Lowercase()]
    )
    assert preimages_of(tokenizer, ["<a>"]) == {"a": ["A"], "<": ["\u4e00"]}


def test_padding_and_templates_are_not_taken_for_leaks():
    tokenizer = tagged(byte_level(None))
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("<ai>"), pad_token="<ai>")
    tokenizer.enable_truncation(3)
    assert audited(tokenizer).verdict("split") == "safe"


def test_the_shared_flag_is_noted_without_changing_the_verdict():
    report = audited(tagged(byte_level(None)))
    (note,) = [one for one in report.findings if one.construction == "shared flag"]
    assert note.shown == note.risk == ()
    assert report.verdict("split") == "safe"


def test_tags_beyond_the_first_are_tried_too():
    tokenizer = byte_level(None)
    tokenizer.add_special_tokens([f"<{i}>" for i in range(70)])
    tokenizer.add_tokens([AddedToken("<last>", special=False, normalized=False)])
    report = audited(tokenizer)
    assert any(one.tag == "<last>" and "split" in dict(one.shown) for one in report.findings)
    assert "7 more tags were tried by their literals alone" in report.proofs[-1]


def test_a_template_that_prints_values_alone_is_fine_behind_sanitize(tmp_path):
    report = audit_subject(with_template(MESSAGES, special=True)(tmp_path), TAGS)
    assert [report.verdict(one) for one in DEFENCES] == ["leaks", "safe", "safe", "safe"]
    assert audit_subject(with_template(KEYS, special=True)(tmp_path), TAGS).verdict("sanitize")


def test_tokens_of_the_folders_other_files_count(tmp_path):
    byte_level(None).save(str(tmp_path / "tokenizer.json"))
    assert audit(tmp_path).verdict() == "safe"
    for name, data in [
        ("special_tokens_map.json", {"additional_special_tokens": ["<ai>"]}),
        ("special_tokens_map.json", {"eos_token": {"content": "<ai>"}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9": {"content": "<ai>"}}}),
        ("tokenizer_config.json", {"extra_special_tokens": {"x": "<ai>"}}),
        ("added_tokens.json", {"<ai>": 999}),
    ]:
        (tmp_path / name).write_text(json.dumps(data))
        assert read_subject(tmp_path).late == ("<ai>",)
        assert audit(tmp_path).verdict() == "leaks"
        (tmp_path / name).unlink()


def test_families_are_taken_or_refused_as_said():
    for make, ours in FAMILIES.values():
        tokenizer = make()
        if ours:
            check_text_tokenizer(tokenizer)
        else:
            with pytest.raises(DataError):
                check_text_tokenizer(tokenizer)


def test_a_model_of_prealign_is_safe_and_a_changed_one_is_refused(tmp_path):
    Vocabulary(train_text_tokenizer(LITERAL, size=280), TWO_MODES).save(tmp_path)
    report = audit(tmp_path)
    assert {report.verdict(one) for one in DEFENCES} == {"safe"}
    assert report.strings > 1000
    assert [tag for tag, _ in report.tags] == list(TAGS)
    changed = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    changed.add_special_tokens(["<ai>"])
    changed.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="has added tokens"):
        audit(tmp_path)


def test_hostile_strings_are_many_distinct_and_the_same_each_time():
    strings = hostile(TAGS)
    assert len(strings) == len(set(strings)) > 1000
    assert strings == hostile(TAGS)
    assert strings[0] == TAGS[0]


@pytest.mark.parametrize("content", [None, "{}", "[", "\x00"])
def test_what_is_no_tokenizer_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match=r"tokenizer\.json: (is no tokenizer|there is no such)"):
        audit(tmp_path)


def test_a_defence_that_there_is_not_is_refused():
    with pytest.raises(ConfigError, match="allowed: nothing, escape, sanitize, split"):
        defence_of("hope")


def test_the_audit_needs_no_torch():
    code = "import sys, prealign.guard.audit, prealign.guard.audit_show; "
    code += "assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["prealign", "guard", *map(str, arguments)])
    with pytest.raises(SystemExit) as leaving:
        main()
    out, err = capsys.readouterr()
    return int(leaving.value.code or 0), " ".join(out.split()), err


def test_the_command_says_what_leaks_and_its_exit_code_too(monkeypatch, capsys, tmp_path):
    file = tmp_path / "t.json"
    tokenizer = tagged(train_text_tokenizer(PLAIN, size=300))
    tokenizer.add_special_tokens(["[/red]"])
    tokenizer.save(str(file))
    code, out, _ = command(monkeypatch, capsys, "audit", file)
    assert code == 1
    assert "[/red]" in out
    assert "leaks with nothing" in out
    code, out, _ = command(monkeypatch, capsys, "audit", file, "--defence", "split")
    assert code == 0
    assert "safe with split" in out
    code, out, _ = command(monkeypatch, capsys, "audit", file, "--tag", "<gone>")
    assert code == 0
    assert "no id stands for '<gone>'" in out
    code, _, err = command(monkeypatch, capsys, "audit", tmp_path / "none")
    assert code == 2
    assert err.startswith("prealign: ")
    assert err.count("\n") == 1
    code, _, err = command(monkeypatch, capsys, "audit", file, "--defence", "hope")
    assert code == 2
