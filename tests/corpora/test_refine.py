"""Steps from shards to shards: what they leave out, by hand; that a kill changes nothing."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest

from prealign.config import NOT_RECORDED
from prealign.corpora.refine import folder as folder_module
from prealign.corpora.refine.balance import Balance
from prealign.corpora.refine.contamination import Decontaminate
from prealign.corpora.refine.duplicates import Deduplicate
from prealign.corpora.refine.folder import check_finished, refine
from prealign.corpora.refine.judge import BOILERPLATE, Filter, Judged
from prealign.corpora.refine.step import Record, Verdict, grams, words_of
from prealign.errors import ConfigError, DataError, RunError
from prealign.runs import hold_folder, read_jsonl
from prealign.text.document import Document, Judgement, Span
from prealign.text.shards import read_header, read_shards, write_shard

HEADER = {"scorers": [], "segmenter": None, "source": {"made": "here"}, "scheme": None}


def one(id, text, mode="ai", source="s", **scores) -> Document:
    return Document(id, text, (Span(0, len(text), mode, scores),) if text else (), source)


def shards(path, *parts, rows=None):
    """Write each part as a shard, with lines of provenance if `rows` has some by id."""
    for index, documents in enumerate(parts):
        file = path / f"part-{index:05d}.parquet"
        write_shard(file, documents, HEADER)
        if rows:
            lines = [{"id": d.id, "outcome": "written", "reason": None, **rows[d.id]}
                     for d in documents]  # fmt: skip
            file.with_suffix(".jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    return path


def ids(out) -> list[str]:
    return [document.id for document in read_shards(out)]


def lines(out) -> dict[str, dict]:
    return {row["id"]: row for file in sorted(out.glob("part-*.jsonl")) for row in read_jsonl(file)}


def contents(out) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(out.iterdir()) if p.name != "config.json"}


# ---- the folder


@dataclass(frozen=True)
class Odd:
    """Leaves out every second document; breaks when it is told to."""

    breaks: list = field(default_factory=list, metadata=NOT_RECORDED, compare=False)
    looked: list = field(default_factory=list, metadata=NOT_RECORDED, compare=False)
    name: str = "odd"

    def context(self):
        return {"version": 1}

    def look(self, records):
        self.looked.append([record.document.id for record in records])
        if len(self.looked) in self.breaks:
            raise KeyboardInterrupt
        return [record.document.id for record in records]

    def decide(self, facts):
        for number, _ in enumerate(facts):
            if -number in self.breaks:
                raise KeyboardInterrupt
            yield Verdict("odd", f"number {number}") if number % 2 else Verdict()
        assert next(iter(facts)) == "a0"  # can be gone through again


@pytest.fixture
def three(tmp_path):
    parts = [[one(f"{letter}{i}", f"text {letter}{i}") for i in range(3)] for letter in "abc"]
    return shards(tmp_path / "in", *parts)


def test_what_stays_is_written_shard_by_shard_with_a_line_for_each_document(three, tmp_path):
    found = refine(Odd(), three, tmp_path / "o", progress=False)
    assert ids(tmp_path / "o") == ["a0", "a2", "b1", "c0", "c2"]
    assert str(found) == "odd: 9 documents, 5 kept, 4 rejected (odd: 4)"
    assert found.samples["odd"][0] == "a1: number 1: 'text a1'"
    row = lines(tmp_path / "o")["b0"]
    assert row == {"id": "b0", "source": "s", "refined_by": "odd", "outcome": "rejected",
                   "reason": "odd", "detail": "number 3"}  # fmt: skip
    assert len(lines(tmp_path / "o")) == 9
    header = read_header(tmp_path / "o/part-00001.parquet")
    assert header["source"] == {"step": "odd", "of": {"made": "here"}}
    summary = json.loads((tmp_path / "o/summary.json").read_text())
    assert (summary["kept"], summary["context"]) == (5, {"version": 1})
    again = Odd()
    assert refine(again, three, tmp_path / "o", progress=False) == found
    assert again.looked == []  # nothing is looked at twice


@pytest.mark.parametrize("at", [1, 2, 3, -2, -4, -8])
def test_a_run_that_breaks_off_anywhere_ends_with_the_same_bytes(three, tmp_path, at):
    refine(Odd(), three, tmp_path / "whole", progress=False)
    with pytest.raises(KeyboardInterrupt):
        refine(Odd(breaks=[at]), three, tmp_path / "cut", progress=False)
    assert not (tmp_path / "cut/summary.json").exists()
    with pytest.raises(DataError, match="is not finished"):
        refine(Odd(), tmp_path / "cut", tmp_path / "next", progress=False)
    step = Odd()
    refine(step, three, tmp_path / "cut", progress=False)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert len(step.looked) == (4 - at if at > 0 else 0)


def test_other_inputs_settings_or_processes_are_refused(three, tmp_path):
    refine(Filter(min_chars=2), three, tmp_path / "o", progress=False)
    with pytest.raises(RunError, match="holds another run"):
        refine(Filter(min_chars=3), three, tmp_path / "o", progress=False)
    with (
        hold_folder(tmp_path / "o"),
        pytest.raises(RunError, match="another process"),
    ):
        refine(Filter(min_chars=2), three, tmp_path / "o", progress=False)
    write_shard(three / "part-00002.parquet", [one("z", "new")], HEADER)
    with pytest.raises(RunError, match="holds another run"):
        refine(Filter(min_chars=2), three, tmp_path / "o", progress=False)
    with pytest.raises(DataError, match="holds no shards"):
        refine(Filter(), tmp_path / "empty", tmp_path / "p", progress=False)
    with pytest.raises(DataError, match="no folders"):
        refine(Filter(), [], tmp_path / "p", progress=False)


def test_folders_are_read_one_after_the_other_and_provenance_goes_along(tmp_path):
    rows = {"x": {"model": "m", "slots": {"persona": "p"}, "seed": 5}}
    first = shards(tmp_path / "one", [one("x", "some text")], rows=rows)
    second = shards(tmp_path / "two", [one("y", "other text"), one("z", "")])
    step = Filter(min_chars=1)
    found = step([first, second], tmp_path / "o", progress=False)
    assert (ids(tmp_path / "o"), found.rejected) == (["x", "y"], {"too short": 1})
    row = lines(tmp_path / "o")["x"]
    assert (row["model"], row["slots"], row["seed"]) == ("m", {"persona": "p"}, 5)
    Balance(key="mode", most=9)(tmp_path / "o", tmp_path / "p", progress=False)
    assert lines(tmp_path / "p")["x"] == row | {"refined_by": "balance"}


@pytest.mark.parametrize("config", ['{"model_type": "llama"}', "[1]"])
def test_a_config_of_something_else_beside_shards_is_nothing_to_us(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    check_finished(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config\.json: is no JSON"):
        check_finished(tmp_path)


def test_a_step_that_runs_long_says_how_far_it_is(three, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(folder_module, "EVERY_S", 0.0)
    refine(Odd(), three, tmp_path / "o")
    said = capsys.readouterr().err
    assert "odd: looked at 1 of 3 shards" in said
    assert "odd: wrote 3 of 3 shards; 9 documents, 4 rejected" in said


# ---- judge and filter


@dataclass(frozen=True)
class Shouting:
    """The share of capitals; it cannot judge a text without letters."""

    name: str = "shouting"
    version: str = "1"
    answer: float | None = None

    def __call__(self, documents):
        return [self.judge(document) for document in documents]

    def judge(self, document):
        texts = [document.text[slice(*span[:2])] for span in document.spans]
        letters = [[c for c in text if c.isalpha()] for text in texts]
        scores = [sum(c.isupper() for c in own) / len(own) if own else None for own in letters]
        if self.answer is not None:
            scores = [self.answer] * len(scores)
        return Judgement(scores, [], "no letters" if None in scores else None)


SPANS = (Span(0, 6, "human", {"old": 1.0}), Span(6, 8, "ai", {"old": 0.0}))
TWO = Document("two", "ABcd. eF", SPANS, "s")


def test_scores_are_added_to_spans_that_keep_their_modes(tmp_path):
    source = shards(tmp_path / "in", [TWO], [one("none", "123")])
    Judged(scorer=Shouting())(source, tmp_path / "o", progress=False)
    two, none = read_shards(tmp_path / "o")
    assert [span.mode for span in two.spans] == ["human", "ai"]
    assert [span.scores for span in two.spans] == [
        {"old": 1.0, "shouting": 0.5}, {"old": 0.0, "shouting": 0.5},
    ]  # fmt: skip
    assert (none.spans[0].scores, none.problem) == ({"shouting": None}, "no letters")
    header = read_header(tmp_path / "o/part-00000.parquet")
    assert [(s["name"], s["version"]) for s in header["scorers"]] == [("shouting", "1")]
    Judged(scorer=Shouting(), of="document")(source, tmp_path / "whole", progress=False)
    two = next(read_shards(tmp_path / "whole"))
    assert [span.scores["shouting"] for span in two.spans] == [0.5, 0.5]  # ABF of ABcdeF
    with pytest.raises(DataError, match="has a score 'shouting'"):
        Judged(scorer=Shouting())(tmp_path / "o", tmp_path / "p", progress=False)
    with pytest.raises(DataError, match="give one finite number or None"):
        Judged(scorer=Shouting(answer=float("nan")))(source, tmp_path / "q", progress=False)
    bare = shards(tmp_path / "bare", [Document("d", "text")])
    with pytest.raises(DataError, match="has no spans to score"):
        Judged(scorer=Shouting())(bare, tmp_path / "r", progress=False)


def verdict(step, document):
    (fact,) = step.look([Record(document, {})])
    return fact and fact[0]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, None),
        ({"min_chars": 8}, None), ({"min_chars": 9}, "too short"),
        ({"max_chars": 8}, None), ({"max_chars": 7}, "too long"),
        ({"score": "old", "highest": 1.0}, None),
        ({"score": "old", "highest": 0.9}, "old too high"),
        ({"score": "old", "highest": 0.9, "modes": ("ai",)}, None),
        ({"score": "old", "lowest": 0.1}, "old too low"),
        ({"score": "old", "lowest": 0.1, "modes": ("human",)}, None),
        ({"score": "old", "lowest": 0.0, "modes": ("quote",)}, "old could not be judged"),
        ({"score": "old", "lowest": 0.0, "modes": ("quote",), "unjudged": "keep"}, None),
        ({"patterns": ("cd. e",)}, "says cd. e"),  # across a border of spans
        ({"patterns": ("cd. e",), "modes": ("ai",)}, None),
        ({"patterns": ("EF$",), "modes": ("ai",)}, "says EF$"),
    ],
)  # fmt: skip
def test_a_filter_leaves_out_what_is_not_as_wanted(settings, reason):
    assert verdict(Filter(**settings), TWO) == reason


def test_what_could_not_be_judged_is_left_out_unless_blank():
    spans = (Span(0, 2, "ai", {"bad": 0.0}), Span(2, 3, "ai", {"bad": None}))
    step = Filter(score="bad", highest=0.5)
    assert verdict(step, Document("d", "ab\n", spans)) is None
    assert verdict(step, Document("d", "abc", spans)) == "bad could not be judged"
    assert (
        verdict(Filter(score="bad", highest=0.5, unjudged="keep"), Document("d", "abc", spans))
        is None
    )
    assert verdict(step, one("e", "ab", bad=float("nan"))) == "bad too high"
    with pytest.raises(DataError, match="has no score 'bad'"):
        verdict(step, one("e", "ab", other=0.0))
    for wrong in ({"score": "bad"}, {"highest": 1.0}, {"patterns": ("(",)}, {"min_chars": -1},
                  {"max_chars": 0}, {"unjudged": "drop"}):  # fmt: skip
        with pytest.raises(ConfigError):
            Filter(**wrong)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("As an AI language model, I have no views.", True),
        ("I\u2019m sorry, but I can\u2019t help you there.", True),
        ("I cannot assist with that.", True),
        ("I cannot swim, and I am sorry for it.", False),
        ("As an AI that keeps the books, she would not lie.", False),
        ("I won't help you hurt her; tell me what happened.", False),
    ],
)
def test_boilerplate_is_found_and_a_refusal_in_its_own_words_is_not(text, found):
    assert (verdict(Filter(patterns=BOILERPLATE), one("d", text)) is not None) == found


# ---- duplicates


def test_words_and_their_runs():
    assert words_of("Don\u2019t  STOP,\n\uff21\uff22-c_d 3.5!") == [
        "don",
        "t",
        "stop",
        "ab",
        "c_d",
        "3",
        "5",
    ]
    assert grams(["a", "b", "c"], 2) == ["a b", "b c"]
    assert grams(["a"], 2) == ["a"]
    assert grams([], 2) == []


def numbered(*spans) -> str:
    return " ".join(f"w{i}" for first, last in spans for i in range(first, last))


def test_the_first_of_the_same_and_of_nearly_the_same_texts_stays(tmp_path):
    base = numbered((0, 200))
    near = numbered((0, 199)) + " other"  # 195 of 197 shingles in common
    half = numbered((0, 100), (500, 600))
    source = shards(
        tmp_path / "in",
        [one("a", base), one("same", f"  {base.upper()}\n", mode="human"), one("near", near)],
        [one("half", half), one("of near", near + "."), one("short", "Yes."), one("yes", "yes!")],
    )
    found = Deduplicate()(source, tmp_path / "o", progress=False)
    assert ids(tmp_path / "o") == ["a", "half", "short"]
    assert found.rejected == {"duplicate": 1, "near-duplicate": 3}
    said = {id: row["detail"] for id, row in lines(tmp_path / "o").items()}
    assert said["same"] == "has the text of a"
    assert said["of near"].endswith("of it is in a")
    exact = Deduplicate(near=None)(source, tmp_path / "exact", progress=False)
    assert exact.rejected == {"duplicate": 1}


def test_the_estimate_is_the_similarity_within_its_error():
    step = Deduplicate(words=1, permutations=1024)
    for shared in (0, 25, 50, 80, 100):
        one_, other = numbered((0, 100)), numbered((100 - shared, 200 - shared))
        true = shared / (200 - shared)
        found = float((step.signature(one_) == step.signature(other)).mean())
        error = (true * (1 - true) / 1024) ** 0.5
        assert abs(found - true) <= 4 * error
    assert step.signature(" ?! ") is None


def test_a_long_document_has_the_signature_of_its_shingles_in_any_order():
    step = Deduplicate(words=1)
    words = [f"w{i}" for i in range(9000)]  # more than are hashed at once
    whole = step.signature(" ".join(words))
    parts = [step.signature(" ".join(words[i::2])) for i in range(2)]
    assert (whole == np.minimum(*parts)).all()
    assert (whole == step.signature(" ".join(reversed(words)))).all()


def test_pairs_of_just_the_similarity_are_compared_99_times_of_100():
    for near, rows in ((0.8, 6), (0.5, 3), (1.0, 128)):
        assert Deduplicate(near=near).rows == rows
    assert 1 - (1 - 0.8**6) ** 21 > 0.99 > 1 - (1 - 0.8**7) ** 18
    assert 1 - (1 - 0.5**3) ** 42 > 0.99 > 1 - (1 - 0.5**4) ** 32
    for wrong in ({"near": 0.05}, {"near": 1.1}, {"words": 0}, {"permutations": 8}):
        with pytest.raises(ConfigError):
            Deduplicate(**wrong)


def test_documents_are_compared_with_those_that_stayed_alone(tmp_path):
    texts = [numbered((at, at + 100)) for at in (0, 8, 16)]  # neighbours: 92 / 108, ends: 84 / 116
    source = shards(
        tmp_path / "in", [one(str(i), text) for i, text in enumerate([*texts, texts[1]])]
    )
    step = Deduplicate(words=1, permutations=1024)
    assert step(source, tmp_path / "o", progress=False).rejected == {"near-duplicate": 2}
    assert ids(tmp_path / "o") == ["0", "2"]


def test_the_same_pairs_are_found_as_by_comparing_all(tmp_path):
    rng = np.random.default_rng(0)
    documents = []
    for index in range(60):
        words = [f"w{i}" for i in rng.integers(0, 10**6, 120)]
        documents.append(one(f"{index}", " ".join(words)))
        for at in rng.integers(0, 120, int(rng.integers(0, 12))):
            words[at] = "changed"
        documents.append(one(f"{index}b", " ".join(words)))
    step = Deduplicate(near=0.7)
    source = shards(tmp_path / "in", documents[:50], documents[50:])
    step(source, tmp_path / "o", progress=False)
    kept: list = []
    for document in documents:
        signature = step.signature(document.text)
        if not any((signature == other).mean() >= 0.7 for _, other in kept):
            kept.append((document.id, signature))
    assert ids(tmp_path / "o") == [id for id, _ in kept]
    assert 60 <= len(kept) < 120


def test_similarities_are_those_of_another_library():
    sketches = pytest.importorskip("datasketch", reason='needs pip install "prealign[dedup]"')
    step = Deduplicate(permutations=512)
    one_, other = numbered((0, 300)), numbered((60, 360))
    found = float((step.signature(one_) == step.signature(other)).mean())
    theirs = []
    for text in (one_, other):
        sketch = sketches.MinHash(num_perm=512, seed=1)
        sketch.update_batch([gram.encode() for gram in grams(words_of(text), 5)])
        theirs.append(sketch)
    assert abs(found - theirs[0].jaccard(theirs[1])) < 0.1


# ---- evaluation sets


RUN13 = "one two three four five six seven eight nine ten eleven twelve thirteen"


@pytest.fixture
def exam(tmp_path):
    file = tmp_path / "exam.jsonl"
    rows = [
        {"question": f"Well: {RUN13}, fourteen?", "choices": ["yes", "no"]},
        {"question": "a b c d e f g h", "choices": [RUN13.replace("one", "uno")]},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_document_that_shares_a_run_of_words_names_the_items(exam, tmp_path):
    texts = {
        "13": f"He said: {RUN13.upper()}!",  # the first item's
        "12": RUN13.removesuffix(" thirteen"),
        "12 more": RUN13.replace("thirteen", "dozen"),
        "short": "x a, b, c, d, e, f, g -- h y",  # a short string as a whole
        "short cut": "a b c d e f g x h",
        "both": f"Uno {RUN13.removeprefix('one ')} {RUN13}",
    }
    source = shards(tmp_path / "in", [one(id, text) for id, text in texts.items()])
    found = Decontaminate(files=(exam,))(source, tmp_path / "o", progress=False)
    assert ids(tmp_path / "o") == ["12", "12 more", "short cut"]
    assert found.rejected == {"in an evaluation set": 3}
    detail = lines(tmp_path / "o")["both"]["detail"]
    assert detail == (f"exam.jsonl:1 ({RUN13!r}); exam.jsonl:2 ({RUN13.replace('one', 'uno')!r})")
    context = json.loads((tmp_path / "o/summary.json").read_text())["context"]
    # "Well ... thirteen", "one ... thirteen", "two ... fourteen", "a ... h", "uno ... thirteen"
    assert context["runs of words"] == 3 + 1 + 1
    assert (context["strings"], context["strings too short to look for"]) == (5, 2)


def test_shorter_runs_find_more_and_fields_fewer(exam, tmp_path):
    twelve = RUN13.removesuffix(" thirteen")
    assert Decontaminate(files=(exam,), words=8).matches(twelve)
    assert not Decontaminate(files=(exam,), words=13).matches(twelve)
    assert not Decontaminate(files=(exam,), fields=("choices",)).matches(RUN13)
    assert Decontaminate(files=(exam,), fields=("question",)).matches(RUN13)
    plain = tmp_path / "exam.txt"
    plain.write_text(f"\nshort\n{RUN13}\n")
    assert Decontaminate(files=(plain,)).matches(RUN13) == [("exam.txt:3", RUN13)]


def test_what_is_kept_of_a_document_does_not_grow_with_the_items_that_share_its_words(tmp_path):
    exam = tmp_path / "exam.txt"
    exam.write_text("".join(f"{RUN13} and then {i}\n" for i in range(3000)))
    step = Decontaminate(files=(exam,))
    facts = step.look([Record(one("a", RUN13), {}), Record(one("b", "free"), {})])
    assert len(json.dumps(facts)) < 5000
    found, free = step.decide(facts)
    assert found.detail.startswith("exam.txt:1 (")
    assert found.detail.endswith("; and 2980 more")
    assert free == Verdict()


def test_an_evaluation_set_that_changed_is_another_run_and_a_bad_one_is_named(exam, tmp_path):
    source = shards(tmp_path / "in", [one("a", "text")])
    Decontaminate(files=(exam,))(source, tmp_path / "o", progress=False)
    moved = tmp_path / "sub" / "exam.jsonl"
    moved.parent.mkdir()
    moved.write_bytes(exam.read_bytes())
    Decontaminate(files=(moved,))(source, tmp_path / "o", progress=False)  # only moved
    moved.write_text(exam.read_text().replace("fourteen", "forty"))  # of the same size
    with pytest.raises(RunError, match="holds another run"):
        Decontaminate(files=(moved,))(source, tmp_path / "o", progress=False)
    (tmp_path / "bad.jsonl").write_text("{}\n{oops\n")
    (tmp_path / "few.txt").write_text("too short\n")
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe\xfa")
    for name, message in (
        ("none.txt", "cannot be read"), ("bad.jsonl", "bad.jsonl:2: not JSON"),
        ("few.txt", "nothing to look for"), ("odd.txt", "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            Decontaminate(files=(tmp_path / name,))(source, tmp_path / "p", progress=False)
    with pytest.raises(DataError, match="has no 'answer'"):
        Decontaminate(files=(exam,), fields=("answer",)).context()
    for wrong in ({"files": ()}, {"words": 5}, {"least_words": 0}):
        with pytest.raises(ConfigError):
            Decontaminate(**({"files": (exam,)} | wrong))


# ---- balance


def mixed(count=40):
    people = ["angry", "kind", "kind", "kind"]
    documents = [one(f"d{i}", f"text {i}", "ai" if i % 8 else "human") for i in range(count)]
    return documents, {f"d{i}": {"slots": {"persona": people[i % 4]}} for i in range(count)}


def test_each_value_has_as_many_as_the_rarest_and_the_rest_is_counted(tmp_path):
    documents, rows = mixed()
    source = shards(tmp_path / "in", documents[:25], documents[25:], rows=rows)
    found = Balance(key="persona")(source, tmp_path / "o", progress=False)
    assert found.rejected == {"too many with persona=kind": 20}
    kept = ids(tmp_path / "o")
    assert [rows[id]["slots"]["persona"] for id in kept].count("kind") == 10
    assert lines(tmp_path / "o")[next(id for id in rows if id not in kept)]["detail"] == (
        "10 of 30 stay"
    )
    more = Balance(key="persona", times=2.5)(source, tmp_path / "more", progress=False)
    assert more.rejected == {"too many with persona=kind": 5}
    assert set(kept) <= set(ids(tmp_path / "more"))
    other = Balance(key="persona", seed=1)(source, tmp_path / "other", progress=False)
    assert other.kept == 20
    assert ids(tmp_path / "other") != kept
    few = Balance(key="mode", most=3)(source, tmp_path / "few", progress=False)
    assert few.rejected == {"too many with mode=ai": 32, "too many with mode=human": 2}


def test_which_stay_does_not_depend_on_the_order_or_the_shards(tmp_path):
    documents, rows = mixed()
    first = shards(tmp_path / "a", documents, rows=rows)
    second = shards(tmp_path / "b", documents[::-1][:7], documents[::-1][7:], rows=rows)
    for source in (first, second):
        Balance(key="persona")(source, tmp_path / f"{source.name}-out", progress=False)
    assert sorted(ids(tmp_path / "a-out")) == sorted(ids(tmp_path / "b-out"))


def test_a_value_that_is_not_there_is_an_error_that_says_what_is(tmp_path):
    documents, rows = mixed(4)
    source = shards(tmp_path / "in", documents, rows=rows)
    with pytest.raises(DataError, match=r"no 'person' .*mode.*persona.*source"):
        Balance(key="person")(source, tmp_path / "o", progress=False)
    for wrong in ({"most": 0}, {"times": 0.5}, {"most": 3, "times": 2.0}):
        with pytest.raises(ConfigError):
            Balance(key="mode", **wrong)
