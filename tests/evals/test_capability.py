import numpy as np
import pytest
import torch

from prealign.evals.capability import loss_row, read_documents
from prealign.models.fake import BiasedModel
from prealign.score.segment import Lines, segment
from prealign.text.document import Document
from tests.evals.conftest import TEXT


@pytest.fixture
def documents():
    cut = [segment(Document(f"d{i}", TEXT[: 60 + 150 * i]), Lines()) for i in range(4)]
    return [d.with_modes(["good" if i % 2 else "bad" for i in range(len(d.spans))]) for d in cut]


def log_probabilities(model, ids, vocabulary):
    """Among text and the end of text: the tags and the inert id come after them."""
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([ids])).logits[0].double()
    return logits[:, : vocabulary.end_id + 1].log_softmax(-1)


def test_the_loss_without_tags_is_that_of_the_plain_text(model, vocabulary, documents):
    document = documents[0]
    ids = [vocabulary.end_id, *vocabulary.encode_text(document.text)]
    logp = log_probabilities(model, ids[:-1], vocabulary)
    by_hand = -sum(logp[i, token].item() for i, token in enumerate(ids[1:]))
    reading = read_documents(model, vocabulary, [document], tags="no tags", row_tokens=64)
    assert reading.nats_D[0] == pytest.approx(by_hand, rel=1e-5)
    assert reading.bytes_D[0] == len(document.text.encode())


def test_what_a_model_puts_on_tags_is_no_loss(vocabulary):
    """Nearly all the mass on a tag that nobody lets it write: the text is read as without it."""
    text = Document("d", "x = 1\n")
    eager = BiasedModel(vocabulary.size, {vocabulary.open_id("bad"): 50.0})
    reading = read_documents(eager, vocabulary, [text], tags="no tags", row_tokens=64)
    tokens = len(vocabulary.encode_text("x = 1\n"))
    assert reading.nats_D[0] == pytest.approx(tokens * np.log(vocabulary.end_id + 1), rel=1e-6)


def test_tags_are_read_but_not_charged_for(model, vocabulary, documents):
    document = documents[0].with_modes(["good"] * len(documents[0].spans))
    ids, text = [vocabulary.end_id], [False]
    for span in document.spans:
        line = vocabulary.encode_text(document.text[span.start_char : span.end_char])
        ids += [vocabulary.open_id("good"), *line]
        text += [False] + [True] * len(line)
    logp = log_probabilities(model, ids[:-1], vocabulary)
    by_hand = -sum(logp[i - 1, ids[i]].item() for i in range(1, len(ids)) if text[i])
    own = read_documents(model, vocabulary, [document], tags="true tags", row_tokens=128)
    assert own.nats_D[0] == pytest.approx(by_hand, rel=1e-5)
    everything = read_documents(model, vocabulary, [documents[0]], tags="all good", row_tokens=128)
    assert everything.nats_D[0] == pytest.approx(by_hand, rel=1e-5)


def test_every_byte_is_read_however_long_the_windows_are(model, vocabulary, documents):
    lengths = [len(document.text.encode()) for document in documents]
    for row_tokens in (5, 64):
        for tags in ("true tags", "no tags", "all bad"):
            reading = read_documents(
                model, vocabulary, documents, tags=tags, row_tokens=row_tokens, batch_rows=3
            )
            assert reading.bytes_D.tolist() == lengths


def test_a_document_is_read_the_same_beside_others(model, vocabulary, documents):
    alone = [
        read_documents(model, vocabulary, [d], tags="true tags", row_tokens=32) for d in documents
    ]
    together = read_documents(model, vocabulary, documents, tags="true tags", row_tokens=32)
    np.testing.assert_allclose(together.nats_D, [one.nats_D[0] for one in alone], rtol=1e-4)


def test_training_goes_on_in_training_mode(model, vocabulary, documents):
    model.train()
    model.model.norm.eval()
    read_documents(model, vocabulary, documents[:1], tags="no tags", row_tokens=64)
    assert model.training
    assert not model.model.norm.training
    model.eval()


def test_the_row_is_summed_nats_over_summed_bytes(model, vocabulary, documents):
    reading = read_documents(model, vocabulary, documents, tags="no tags", row_tokens=64)
    row = loss_row(reading, condition="no tags")
    assert row["value"] == pytest.approx(reading.nats_D.sum() / reading.bytes_D.sum())
    assert row["unit"] == "nats/byte"
    assert row["low"] <= row["value"] <= row["high"]
