import gzip
import json
from pathlib import Path

import pytest

from prealign.corpora.dialogues import Dialogues, Turn, dialogue, marked_turns
from prealign.corpora.rejects import Rejects
from prealign.errors import ConfigError, DataError
from prealign.text.markup import render
from prealign.text.scheme import TWO_MODES

HH = Path(__file__).parents[2].parent / "shared/data/hh-rlhf/harmless-base.jsonl.gz"


def written(tmp_path, *rows, name="d.jsonl"):
    path = tmp_path / name
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


MESSAGES = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi <ai>"},
        {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "It is 42."},
    ]
}
SHARE = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
PAIR = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Rob?\n\nAssistant: No.",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Rob?\n\nAssistant: Sure.",
}


def test_who_speaks_is_the_mode_in_every_format(tmp_path):
    path = written(tmp_path, MESSAGES, "", SHARE, PAIR, name="d.jsonl.gz")
    found = [render(document, TWO_MODES) for document in Dialogues(path=path)()]
    assert found == [
        "<human>Be kind.\n</human><human>Hi <\\ai>\n</human><ai>Hello\n</ai><human>42\n</human>"
        "<ai>It is 42.\n</ai>",
        "<human>Hi\n</human><ai>Hello\n</ai>",
        "<human>Hi\n</human><ai>Hello\n</ai><human>Rob?\n</human><ai>No.\n</ai>",
    ]
    names = [document.id for document in Dialogues(path=path)()]
    assert names == ["d.jsonl.gz:1", "d.jsonl.gz:3", "d.jsonl.gz:4"]


def test_what_was_rejected_is_never_the_ais(tmp_path):
    path = written(tmp_path, PAIR)
    kept, played = Dialogues(path=path, rejected="human")()
    assert kept.source == played.source == "d.jsonl:1"
    assert played.id == "d.jsonl:1:rejected"
    assert played.text.endswith("Rob?\nSure.\n")
    assert [span.mode for span in played.spans] == ["human", "ai", "human", "human"]
    assert "Sure" not in kept.text


def test_the_systems_words_can_be_left_out(tmp_path):
    (document,) = Dialogues(path=written(tmp_path, MESSAGES), system="drop")()
    assert document.text.startswith("Hi <ai>\n")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "x"}, r"has no messages, conversations or chosen \(it has: text\)"),
        ({"messages": "hello"}, "begins with 'hello'; expected"),
        ({"messages": []}, "'messages' has no turns"),
        ({"messages": 3}, "'messages' is a int; expected a list"),
        ({"messages": ["x"]}, r"messages\[0\] is a str"),
        ({"messages": [{"role": "king", "content": "x"}]}, "role 'king'; allowed: user, human"),
        ({"messages": [{"role": "user", "content": 3}]}, "content is a int"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "parts that are no"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]},
            "parts that are no",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "parts that are no"),
        ("[1]", "is a list; expected an object"),
    ],
)
def test_a_line_that_is_no_dialogue_is_named_or_collected(tmp_path, row, says):
    path = written(tmp_path, SHARE, row)
    with pytest.raises(DataError, match=rf"d\.jsonl:2: .*{says}"):
        list(Dialogues(path=path)())
    rejects = Rejects()
    assert len(list(Dialogues(path=path, on_bad="collect")(rejects))) == 1
    assert rejects.counts == {"bad dialogue": 1}


def test_settings_are_checked(tmp_path):
    with pytest.raises(ConfigError, match="rejected='keep': expected drop or human"):
        Dialogues(path=tmp_path, rejected="keep")
    with pytest.raises(ConfigError, match="call the reader with a Rejects"):
        list(Dialogues(path=written(tmp_path, SHARE), on_bad="collect")())
    with pytest.raises(DataError, match="is not there"):
        list(Dialogues(path=tmp_path / "no.jsonl")())


def test_a_speaker_within_a_line_is_no_turn():
    text = "\n\nHuman: He said: Assistant: yes\nHuman: no\n\nAssistant: Fine.\n\nHuman: "
    assert marked_turns(text) == [
        Turn("human", "He said: Assistant: yes\nHuman: no"), Turn("ai", "Fine."),
    ]  # fmt: skip
    assert dialogue([Turn("ai", "a"), Turn("ai", "b")], id="x").text == "a\nb\n"


@pytest.mark.skipif(not HH.exists(), reason=f"{HH.name} is not on this machine")
def test_real_dialogues_are_read_whole():
    documents = list(Dialogues(path=HH, rejected="human")())
    chosen = [document for document in documents if not document.id.endswith(":rejected")]
    assert len(chosen) == 1849
    assert len(documents) - len(chosen) <= 1849
    assert all(document.spans[0].mode == "human" for document in chosen)
    silent = [d for d in chosen if not any(span.mode == "ai" for span in d.spans)]
    assert len(silent) < 20  # some last answers are empty
