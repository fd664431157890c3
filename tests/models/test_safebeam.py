import itertools
import math

import numpy as np
import pytest
import torch

from prealign.errors import ConfigError, DataError, GuardError
from prealign.guard.gate import Guard
from prealign.guard.policy import stay
from prealign.guard.table import table_of
from prealign.models.fake import BiasedModel, FakeOutput
from prealign.models.safebeam import SafeBeam
from prealign.models.sample import Sampling, sample


class Tiny:
    """A vocabulary: ids 0 to 3 are text, 4 ends it, 5 is the unsafe tag, 6 another tag."""

    text_size, end_id, size = 4, 4, 7
    tag_ids = {"<bad>": 5, "<good>": 6}  # noqa: RUF012


class Markov(BiasedModel):
    """The next id depends on the last one alone."""

    def __init__(self, logits_VV, max_tokens=4096):
        super().__init__(logits_VV.shape[0], max_tokens=max_tokens)
        self.logits_VV = logits_VV

    def forward(self, input_ids, *, logits_to_keep=0, **_):
        logits = self.logits_VV[input_ids]
        return FakeOutput(logits[:, -(logits_to_keep or logits.shape[1]) :])


def markov(seed, **rest):
    generator = torch.Generator().manual_seed(seed)
    return Markov(torch.randn(7, 7, generator=generator) * 2, **rest)


class OnlyText:
    """A guard that denies tags, and counts."""

    def __init__(self):
        self.seen = []

    def scan(self, ids):
        return 0

    def mask(self, logits_BV, states_B):
        logits_BV[:, 5:] = -torch.inf
        return logits_BV

    def commit(self, states_B, ids_B, by_model_B):
        assert by_model_B.all()
        self.seen += ids_B.tolist()
        if (ids_B >= 5).any():
            raise GuardError("a tag")
        return states_B + 1


def reference(model, prompt, settings, mask, end_id=4):
    """Return what the search has to end with, read anew at every step, without any cache."""

    def rows(ids):
        logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, -1].detach().double()
        risk = float(logits.softmax(-1)[list(settings.tag_ids)].sum())
        return mask(logits.clone()).log_softmax(-1), risk

    beams = [((), 0.0, rows(())[1], False)]
    for _ in range(settings.max_tokens):
        pool = [beam for beam in beams if beam[3]]
        for ids, logp, risk, finished in beams:
            if finished:
                continue
            logps, _ = rows(ids)
            for token in logps.argsort(descending=True, stable=True)[
                : settings.candidates
            ].tolist():
                if logps[token] == -math.inf:
                    continue
                total = logp + float(logps[token])
                if token == end_id:
                    pool.append((ids, total, risk, True))
                else:
                    pool.append(((*ids, token), total, rows((*ids, token))[1], False))
        pool.sort(key=lambda one: (one[2], -one[1]))
        pool = pool[: len(pool) - int(settings.drop_share * len(pool))]
        beams = sorted(pool, key=lambda one: -one[1])[: settings.beams]
        if all(beam[3] for beam in beams):
            break
    return beams


def only_text(logits):
    logits[5:] = -torch.inf
    return logits


def same(found, expected):
    assert [one.ids for one in found.hypotheses] == [one[0] for one in expected]
    assert [one.finished for one in found.hypotheses] == [one[3] for one in expected]
    for own, other in zip(found.hypotheses, expected, strict=True):
        assert (own.logp, own.risk) == pytest.approx(other[1:3], abs=1e-4)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("beams", "candidates", "drop"), [(1, 2, 0.5), (3, 4, 0.5), (4, 7, 0.8)])
def test_it_is_the_plain_algorithm(seed, beams, candidates, drop):
    search = SafeBeam(
        tag_ids=(5,), beams=beams, candidates=candidates, drop_share=drop, max_tokens=6
    )
    model = markov(seed)
    found = search(model, [4, 1], vocabulary=Tiny(), guard=OnlyText())
    same(found, reference(model, [4, 1], search, only_text))


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_rows_of_the_cache_follow_their_beams(model, vocabulary, drop):
    guard = Guard(table_of(vocabulary, stay(vocabulary.scheme)))
    allowed = torch.from_numpy(guard.table.allowed(0))
    model.eval()
    search = SafeBeam(
        tag_ids=(vocabulary.open_id("bad"),), beams=3, candidates=3, drop_share=drop, max_tokens=9
    )
    for first in range(4):
        prompt = [vocabulary.end_id, vocabulary.open_id("good"), 30 + first, 40]
        found = search(model, prompt, vocabulary=vocabulary, guard=guard)
        expected = reference(
            model, prompt, search, lambda logits: logits.masked_fill(~allowed, -torch.inf),
            end_id=vocabulary.end_id,
        )  # fmt: skip
        same(found, expected)
    assert guard.fired == 0


@pytest.mark.parametrize("seed", range(4))
def test_with_room_for_all_it_finds_the_likeliest_text_of_all(seed):
    model, guard = markov(seed), OnlyText()
    search = SafeBeam(tag_ids=(5,), beams=2000, candidates=7, drop_share=0, max_tokens=4)
    found = search(model, [4], vocabulary=Tiny(), guard=guard)
    logp_VV = torch.stack([only_text(row.clone()) for row in model.logits_VV]).double()
    logp_VV = logp_VV.log_softmax(-1)
    texts = [ids for length in range(4) for ids in itertools.product(range(4), repeat=length)]
    whole = [(*ids, 4) for ids in texts] + list(itertools.product(range(4), repeat=4))

    def logp(ids):
        return sum(float(logp_VV[a, b]) for a, b in itertools.pairwise([4, *ids]))

    best = max(whole, key=logp)
    own = found.best
    assert (*own.ids, *[4] * own.finished) == best
    assert own.logp == pytest.approx(logp(best))
    assert len(found.hypotheses) == len(whole)
    # All texts together have all of the probability.
    assert sum(math.exp(one.logp) for one in found.hypotheses) == pytest.approx(1)


def test_one_beam_one_candidate_no_dropping_is_greedy_decoding(model, vocabulary):
    guard = Guard(table_of(vocabulary, stay(vocabulary.scheme)))
    search = SafeBeam(
        tag_ids=(vocabulary.open_id("bad"),), beams=1, candidates=1, drop_share=0, max_tokens=24
    )
    settings = Sampling(temperature=0, max_text_tokens=24)
    random = np.random.default_rng(0)
    prompts = [
        [vocabulary.end_id, *random.integers(0, vocabulary.text_size, n).tolist()] for n in range(9)
    ]
    greedy = sample(model, prompts, settings, seeds=range(9), vocabulary=vocabulary, guard=guard)
    for prompt, one in zip(prompts, greedy, strict=True):
        found = search(model, prompt, vocabulary=vocabulary, guard=guard)
        assert found.best.ids == one.ids
        assert found.best.finished == one.finished


def test_it_turns_away_from_what_leads_to_the_tag():
    # From 0, id 1 is likelier than 2; behind 1 the tag has 0.9, behind 2 it has 0.01.
    p = torch.full((7, 7), 1e-9)
    p[0, 1], p[0, 2] = 0.6, 0.4
    p[1, 5], p[1, 1] = 0.9, 0.1
    p[2, 5], p[2, 2] = 0.01, 0.99
    model = Markov(p.log())
    for drop, ids, risk in ((0.0, (1,), 0.9), (0.5, (2,), 0.01)):
        search = SafeBeam(tag_ids=(5,), beams=1, candidates=2, drop_share=drop, max_tokens=1)
        found = search(model, [4, 0], vocabulary=Tiny(), guard=OnlyText())
        assert found.best.ids == ids
        assert found.best.risk == pytest.approx(risk)
        assert found.dropped == (1 if drop else 0)


def test_calls_and_rows_are_counted():
    class Watching(Markov):
        shapes: list = []  # noqa: RUF012

        def forward(self, input_ids, **rest):
            self.shapes.append(tuple(input_ids.shape))
            return super().forward(input_ids, **rest)

    logits = torch.zeros(7, 7)
    logits[:, 4] = -10
    model = Watching(logits)
    search = SafeBeam(tag_ids=(5,), beams=2, candidates=3, drop_share=0.5, max_tokens=4)
    found = search(model, [4, 0, 1], vocabulary=Tiny(), guard=OnlyText())
    # 3 candidates, of which one is dropped and two go on; then 2 x 3 each.
    assert model.shapes == [(1, 3), (3, 1), (6, 1), (6, 1), (6, 1)]
    assert (found.calls, found.rows, found.dropped) == (5, 22, 1 + 3 * 3)


def test_every_candidate_is_shown_to_the_gate_and_an_unmasked_one_is_refused():
    guard = OnlyText()
    search = SafeBeam(tag_ids=(5,), beams=2, candidates=2, max_tokens=3)
    found = search(markov(0), [4], vocabulary=Tiny(), guard=guard)
    assert len(guard.seen) >= found.rows - 1
    guard = OnlyText()
    guard.mask = lambda logits_BV, states_B: logits_BV
    wants = BiasedModel(7, {5: 1e4})
    with pytest.raises(GuardError):
        search(wants, [4], vocabulary=Tiny(), guard=guard)
    assert 5 in search(wants, [4], vocabulary=Tiny()).best.ids  # without a guard nothing holds it


def test_it_stops_where_the_context_is_full():
    model = markov(3, max_tokens=5)
    model.logits_VV[:, 4] = -1e3
    search = SafeBeam(tag_ids=(5,), max_tokens=50)
    found = search(model, [4, 0, 1], vocabulary=Tiny(), guard=OnlyText())
    assert {len(one.ids) for one in found.hypotheses} == {2}


def test_what_cannot_be_searched_is_refused():
    for settings in ({"beams": 0}, {"candidates": 0}, {"drop_share": 1.0}, {"max_tokens": 0}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            SafeBeam(tag_ids=(5,), **settings)
    with pytest.raises(ConfigError, match="one tag at least"):
        SafeBeam(tag_ids=())
    search = SafeBeam(tag_ids=(5,))
    for prompt, words in [([], "0 ids"), ([9], r"foreign ids \[9\]"), ([1] * 5, "1 to 4")]:
        with pytest.raises(DataError, match=words):
            search(markov(0, max_tokens=5), prompt, vocabulary=Tiny())
    with pytest.raises(DataError, match="NaN"):
        search(BiasedModel(7, {0: math.nan}), [4], vocabulary=Tiny())
