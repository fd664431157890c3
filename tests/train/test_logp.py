import numpy as np
import pytest
import torch

from prealign.errors import ConfigError
from prealign.tokens.encode import SCORED, TAG
from prealign.tokens.pack import PackedRows
from prealign.train.logp import (
    Scalar,
    TargetLogp,
    has_attention,
    positions_in_documents,
    value_head,
    with_attention,
    within_documents,
)
from tests.train.fakes import VOCABULARY, small_model

IDS = torch.randint(0, VOCABULARY, (3, 13), generator=torch.Generator().manual_seed(1))
ONE = torch.zeros(3, 12, dtype=torch.int32)
TWO = torch.tensor([[0] * 5 + [1] * 7] * 3, dtype=torch.int32)


def logp_of(ids, documents, *, bf16=False, document_mask=False, attention=None):
    model = small_model()
    with with_attention(model, attention), torch.no_grad():
        logp = TargetLogp(model, bf16=bf16, document_mask=document_mask)
        return logp(ids[:, :-1], ids[:, 1:], documents)[0]


def test_it_is_the_log_softmax_of_the_logits_at_the_target():
    with torch.no_grad():
        logits_BLV = small_model()(input_ids=IDS[:, :-1]).logits
    expected_BL = logits_BLV.log_softmax(-1).gather(-1, IDS[:, 1:, None])[..., 0]
    torch.testing.assert_close(logp_of(IDS, ONE), expected_BL)


def test_a_value_head_starts_at_0_sees_no_target_and_goes_away():
    model = small_model()
    with value_head(model, wanted=True), torch.no_grad():
        outputs = TargetLogp(model, bf16=False, document_mask=False)
        assert (outputs(IDS[:, :-1], IDS[:, 1:], ONE)[1] == 0).all()
        torch.nn.init.normal_(model.value_head.weight, generator=torch.Generator().manual_seed(0))
        other = IDS.clone()
        other[:, -1] = (other[:, -1] + 1) % VOCABULARY
        one_BL, two_BL = (outputs(ids[:, :-1], ids[:, 1:], ONE)[1] for ids in (IDS, other))
        assert torch.equal(one_BL, two_BL)
        assert one_BL.shape == (3, 12)
        assert one_BL.std() > 0
    assert not hasattr(model, "value_head")


def rows_with_tags(ids, flags, score):
    shape = ids.shape
    return PackedRows(
        ids=np.asarray(ids), mode=np.zeros(shape, np.uint8), score=np.asarray(score, np.float32),
        flags=np.asarray(flags, np.uint8), document=np.zeros(shape, np.int32),
    )  # fmt: skip


def test_a_scalar_tag_says_its_score_and_nothing_else_does():
    low = 3
    ids = np.array([[low, 5, low, low, low, 7]])
    flags = [[TAG | SCORED, SCORED, TAG | SCORED, TAG, TAG | SCORED, SCORED]]
    rows = rows_with_tags(ids, flags, [[0.1, 0.1, 0.2, 0.0, 0.9, 0.9]])
    places = Scalar(low, 9, high_score=0.4).places(rows)
    assert places.tolist() == [pytest.approx([0.25, 0, 0.5, 0, 1])]
    with pytest.raises(ConfigError, match=r"high_score=0\.0"):
        Scalar(low, 9, 0.0).places(rows)


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_at_its_ends_a_scalar_tag_is_an_ordinary_tag_and_between_them_a_mixture(place):
    low, high = 3, 9
    ids = IDS.where(low != IDS, 5)
    ids[:, 4] = low
    places = torch.zeros(3, 12)
    places[:, 4] = place
    model = small_model()
    logp = TargetLogp(model, bf16=False, document_mask=False)
    found_BL = logp(ids[:, :-1], ids[:, 1:], ONE, (torch.tensor([low, high]), places))[0]
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        mixed = embedding.clone()
        mixed[low] = (1 - place) * embedding[low] + place * embedding[high]
        # No other place of these rows has the low tag, so its whole row may be replaced.
        assert (ids[:, :-1] == low).sum() == 3
        hidden = model.base_model(inputs_embeds=mixed[ids[:, :-1]]).last_hidden_state
        logits = model.get_output_embeddings()(hidden)
        expected = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(found_BL.detach(), expected)
    found_BL[:, 5:].sum().backward()
    reached = embedding.grad[[low, high]].abs().sum(dim=1) > 0
    assert reached.tolist() == [True, True]  # by the output rows in any case
    if place in (0.0, 1.0):
        ids[:, 4] = (low, high)[int(place)]
        plain_BL = logp(ids[:, :-1], ids[:, 1:], ONE)[0]
        torch.testing.assert_close(found_BL[:, 4:], plain_BL[:, 4:])


def test_in_bf16_it_is_nearly_the_same_and_still_fp32():
    logp_BL = logp_of(IDS, ONE, bf16=True)
    assert logp_BL.dtype == torch.float32
    torch.testing.assert_close(logp_BL, logp_of(IDS, ONE), atol=0.02, rtol=0.02)
    assert not torch.equal(logp_BL, logp_of(IDS, ONE))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_with_the_document_mask_documents_are_read_as_if_each_stood_alone(attention):
    masked_BL = logp_of(IDS, TWO, document_mask=True, attention=attention)
    first_BL = logp_of(IDS[:, :6], ONE[:, :5], attention=attention)
    second_BL = logp_of(IDS[:, 5:], ONE[:, :7], attention=attention)
    torch.testing.assert_close(masked_BL, torch.cat([first_BL, second_BL], dim=1))


@pytest.mark.parametrize("bf16", [False, True])
def test_with_the_document_mask_another_first_document_changes_nothing_in_the_second(bf16):
    other = IDS.clone()
    other[:, :5] = (other[:, :5] + 7) % VOCABULARY
    pair = [logp_of(ids, TWO, document_mask=True, bf16=bf16) for ids in (IDS, other)]
    assert torch.equal(pair[0][:, 5:], pair[1][:, 5:])
    unmasked = [logp_of(ids, TWO, bf16=bf16) for ids in (IDS, other)]
    assert not torch.equal(unmasked[0][:, 5:], unmasked[1][:, 5:])


def test_the_mask_and_the_positions_of_two_documents_by_hand():
    document_BL = torch.tensor([[0, 0, 1, 1]])
    assert positions_in_documents(document_BL).tolist() == [[0, 1, 0, 1]]
    assert within_documents(document_BL)[0, 0].int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 1, 1],
    ]


def test_both_kinds_of_attention_agree_and_the_models_own_is_put_back():
    torch.testing.assert_close(
        logp_of(IDS, ONE, attention="eager"), logp_of(IDS, ONE), atol=1e-5, rtol=1e-5
    )
    model = small_model()
    seen = []
    with pytest.raises(KeyError), with_attention(model, "eager"):
        seen += [has_attention(model, "eager"), {}["an error inside"]]
    assert has_attention(model, "sdpa")
