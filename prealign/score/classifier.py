"""A classifier of texts that is fitted to labels, saved without pickles, and used as a scorer.

Logistic regression on hashed n-grams of characters: fast, of a fixed size, and good enough to tell
whether texts of a kind became rarer. It is held to its accuracy on labels that it has not seen.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from prealign.errors import DataError, MissingDependency
from prealign.runs import write_atomic
from prealign.text.document import Document, Judgement

try:
    import sklearn
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
except ImportError:
    sklearn = None

SCHEMA_VERSION = 1
FEATURES = {"analyzer": "char_wb", "ngram_range": (1, 4), "n_features": 2**18, "norm": "l2"}
INVERSE_PENALTY = 10.0
WEIGHTS, META = "weights.safetensors", "classifier.json"
MISSING = 'a classifier needs the package scikit-learn: pip install "prealign[labels]"'


@dataclass(frozen=True)
class Classifier:
    """Gives spans the probability that they are bad, by a classifier that `fit_classifier` saved.

    An empty span cannot be judged.
    """

    folder: Path

    @property
    def name(self) -> str:
        """The key of its scores."""
        return "classifier"

    @property
    def version(self) -> str:
        """What its weights are, and the version of the package that makes its features."""
        return f"1, weights {self.meta['fingerprint']}, scikit-learn {sklearn.__version__}"

    @cached_property
    def meta(self) -> dict[str, Any]:
        """What is recorded of the fit.

        Raises:
            DataError: The folder has no classifier, or one of another schema version.
        """
        file = self.folder / META
        if not file.is_file():
            raise DataError(f"{self.folder}: holds no classifier (no {META}); fit one")
        meta: dict[str, Any] = json.loads(file.read_text())
        if meta.get("schema_version") != SCHEMA_VERSION:
            raise DataError(
                f"{file}: has schema version {meta.get('schema_version')!r}, "
                f"allowed: {SCHEMA_VERSION}; fit it again"
            )
        return meta

    def __call__(self, documents: Sequence[Document]) -> list[Judgement]:
        """Return the probability of each span."""
        pieces = [d.text[s.start_char : s.end_char] for d in documents for s in d.spans]
        scores = iter(self.probabilities(pieces).tolist())
        judged = []
        for document in documents:
            own = [
                score if span.end_char > span.start_char else None
                for span, score in zip(document.spans, scores, strict=False)
            ]
            judged.append(Judgement(own, [], "empty span" if None in own else None))
        return judged

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the probability that each text is bad, [len(texts)]."""
        if not texts:
            return np.zeros(0)
        weights = self._weights
        logits = _vectorizer().transform(texts) @ weights["coefficients"] + weights["intercept"][0]
        found: NDArray[np.float64] = 1 / (1 + np.exp(-logits))
        return found

    @cached_property
    def _weights(self) -> dict[str, NDArray[np.float64]]:
        _ = self.meta  # says what is wrong with a folder that holds none
        weights: dict[str, NDArray[np.float64]] = load_file(self.folder / WEIGHTS)
        return weights


def fit_classifier(
    folder: Path,
    train: tuple[Sequence[str], Sequence[bool]],
    heldout: tuple[Sequence[str], Sequence[bool]],
) -> Classifier:
    """Return a classifier fitted to texts and whether each is bad, saved in `folder`.

    Classes weigh the same, however rare one is, so the probability is that of a text drawn from
    an even mixture. The same texts give the same weights.

    Args:
        folder: Is made; what it holds of an earlier fit is replaced.
        train: Texts and labels to fit.
        heldout: Others, to state how good it is: area under the ROC curve, and the mean
            probability of bad and of good texts.

    Raises:
        DataError: One of the parts lacks good or bad texts.
        MissingDependency: scikit-learn is not installed.
    """
    if sklearn is None:
        raise MissingDependency(MISSING)
    for name, (_, labels) in (("train", train), ("held-out", heldout)):
        if len(set(labels)) != 2:
            raise DataError(
                f"the {name} part has {sum(labels)} bad texts of {len(labels)}; a classifier needs "
                "good and bad ones in both parts"
            )
    model = LogisticRegression(C=INVERSE_PENALTY, class_weight="balanced", solver="liblinear")
    model.fit(_vectorizer().transform(train[0]), np.array(train[1]))
    weights = {"coefficients": model.coef_[0].copy(), "intercept": model.intercept_.copy()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / META).unlink(missing_ok=True)
    save_file(weights, folder / WEIGHTS)
    digest = hashlib.sha256(b"".join(weights[key].tobytes() for key in sorted(weights)))
    meta = {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": digest.hexdigest()[:16],
        "features": FEATURES,
        "scikit-learn": sklearn.__version__,
        "train": {"texts": len(train[0]), "bad": int(sum(train[1]))},
    }
    write_atomic(folder / META, json.dumps(meta, indent=1))
    found = Classifier(folder).probabilities(heldout[0])
    bad = np.array(heldout[1], dtype=bool)
    meta["heldout"] = {
        "texts": len(bad),
        "bad": int(bad.sum()),
        "auc": round(float(roc_auc_score(bad, found)), 4),
        "mean_of_bad": round(float(found[bad].mean()), 4),
        "mean_of_good": round(float(found[~bad].mean()), 4),
    }
    write_atomic(folder / META, json.dumps(meta, indent=1))
    return Classifier(folder)


def _vectorizer() -> Any:
    if sklearn is None:
        raise MissingDependency(MISSING)
    return HashingVectorizer(**FEATURES)
