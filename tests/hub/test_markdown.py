"""Nothing from data can act in a card: not in its Markdown, not in its YAML."""

import pytest
from huggingface_hub import metadata_load
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign.errors import DataError
from prealign.hub.licences import identifier
from prealign.hub.markdown import (
    code,
    dataset_front,
    escape,
    fenced,
    model_front,
    one_line,
    split_front,
    table,
)

NASTY = 'x: "y"\n---\nlicense: mit\n'
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def load(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    return metadata_load(tmp_path / "README.md")


@pytest.mark.parametrize("front", [dataset_front, model_front])
def test_a_name_cannot_end_the_front_matter_or_set_another_key(tmp_path, front):
    text = front({"pretty_name": NASTY, "tags": [NASTY, "null", "- a"]}) + "# body\n"
    data = load(tmp_path, text)
    assert data["pretty_name"] == 'x: "y" --- license: mit'
    assert data["tags"] == ['x: "y" --- license: mit', "null", "- a"]
    assert "license" not in data
    assert split_front(text)[1] == "# body\n"


@settings(max_examples=50, deadline=None)
@given(ANY)
def test_any_text_is_read_back_from_the_yaml(tmp_path_factory, text):
    data = load(tmp_path_factory.mktemp("card"), dataset_front({"pretty_name": "n" + text}))
    assert data["pretty_name"] == one_line("n" + text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", "a\\|b"),
        ("[x](javascript:y)", "\\[x\\]\\(javascript\\:y\\)"),
        ("<img src=x>", "\\<img src=x\\>"),
        ("a\n\n# b", "a \\# b"),
        ("1. one", "1\\. one"),
        ("- one", "\\- one"),
        ("*a* `b` _c_ ~d~ $e$", "\\*a\\* \\`b\\` \\_c\\_ \\~d\\~ \\$e\\$"),
        ("https://a.b www.c.d", "https\\://a.b www\\.c.d"),
        ("a\x00\u202eb", "aU+0000U+202Eb"),
        ("x" * 300, "x" * 199 + "\u2026"),
    ],
)
def test_what_markdown_would_read_as_more_is_escaped(text, shown):
    assert escape(text) == shown


def test_code_holds_backticks_and_bars():
    assert code("a`b|c") == "``a`b\\|c``"
    assert code("`") == "`` ` ``"
    assert code("") == "`  `"


def test_no_line_of_a_text_ends_its_block():
    block = fenced("a\n```\n# b\n`````\nc", "json")
    assert block.startswith("``````json\n")
    assert block.endswith("\n``````\n")


def test_a_cell_too_many_is_refused():
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |\n"
    with pytest.raises(DataError, match="a row of 3 cells under 2 columns"):
        table(["a", "b"], [["x", "1", "2"]])


@pytest.mark.parametrize(
    ("licence", "known"),
    [("MIT", "mit"), ("BSD-3-Clause", "bsd-3-clause"), ("GPL-3.0-or-later", "gpl-3.0"),
     ("Caldera", "other"), ("my own words", "other")],
)  # fmt: skip
def test_licences_have_the_names_of_the_hub(licence, known):
    assert identifier(licence) == known
