"""A saved model is an ordinary one to lm-eval: what it says of a text is what we say of it."""

import pytest
import torch

from prealign.evals.capability import target_logp
from prealign.models.files import save_model


@pytest.mark.timeout(300)
def test_lm_eval_reads_a_saved_model_as_we_do(model, vocabulary, tmp_path):
    huggingface = pytest.importorskip(
        "lm_eval.models.huggingface", reason='needs pip install "prealign[lm-eval]"'
    )
    from lm_eval.api.instance import Instance

    save_model(tmp_path / "model", model, vocabulary, card="a test")
    reader = huggingface.HFLM(
        pretrained=str(tmp_path / "model"), device="cpu", prefix_token_id=vocabulary.end_id
    )
    text = "def f(x):\n    return x\n"
    asked = Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0)
    (found,) = reader.loglikelihood_rolling([asked])
    ids = [vocabulary.end_id, *vocabulary.encode_text(text)]
    assert found == pytest.approx(float(target_logp(model, torch.tensor([ids])).sum()), abs=1e-4)
