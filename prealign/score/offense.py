"""Offensive language and hate by hatesonar, a small classifier whose weights come in its package.

Trained on tweets (Davidson et al. 2017, https://arxiv.org/abs/1703.04009). It is quick, knows words
rather than what is meant, and says 0.3 of a polite sentence: hold it against labels of your own
(`prealign calibrate`) before you set a threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prealign.errors import DataError, MissingDependency
from prealign.text.document import Document, Judgement
from prealign.text.packages import package_files

try:
    import onnxruntime
except ImportError:
    onnxruntime = None

PACKAGE = "hatesonar"
NEITHER = 2
"""The class of what is neither hate nor offensive."""
AT_ONCE = 256


@dataclass(frozen=True)
class Offense:
    """The probability that a span is hateful or offensive. An empty span cannot be judged."""

    @property
    def name(self) -> str:
        """The key of its scores."""
        return "offense"

    @property
    def version(self) -> str:
        """Ours, and that of the package with the weights."""
        return f"1, {PACKAGE} {version(PACKAGE)}"

    def __call__(self, documents: Sequence[Document]) -> list[Judgement]:
        """Return the probability of each span.

        Raises:
            MissingDependency: hatesonar or onnxruntime is not installed.
        """
        pieces = [d.text[s.start_char : s.end_char] for d in documents for s in d.spans]
        scores = iter(probabilities([piece for piece in pieces if piece.strip()]).tolist())
        judged = []
        for document in documents:
            own = [
                next(scores) if document.text[s.start_char : s.end_char].strip() else None
                for s in document.spans
            ]
            judged.append(Judgement(own, [], "empty span" if None in own else None))
        return judged


def probabilities(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return the probability that each text is hateful or offensive, float64, [len(texts)]."""
    found = [np.zeros(0)]
    for start in range(0, len(texts), AT_ONCE):
        some = np.array(list(texts[start : start + AT_ONCE]), dtype=object)
        _, shares = _session().run(None, {"text": some})
        found.append(np.array([1.0 - float(share[NEITHER]) for share in shares]))
    return np.concatenate(found)


@lru_cache(maxsize=1)
def _session() -> Any:
    """Return the model; nothing of the package is imported."""
    if onnxruntime is None:
        raise MissingDependency('offense needs onnxruntime: pip install "prealign[offense]"')
    models = [path for path in package_files(PACKAGE) if path.suffix == ".onnx"]
    if len(models) != 1:
        raise DataError(
            f"{PACKAGE}: has {len(models)} ONNX models, expected 1; pin hatesonar==0.1.0"
        )
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4  # what goes wrong is said below
    try:
        return onnxruntime.InferenceSession(
            str(models[0]), settings, providers=["CPUExecutionProvider"]
        )
    except onnxruntime.capi.onnxruntime_pybind11_state.Fail as error:
        if "locale" not in str(error):
            raise
        raise MissingDependency(
            "hatesonar's model needs the locale en_US.UTF-8: "
            "localedef -i en_US -f UTF-8 en_US.UTF-8 (on Debian the package locales)"
        ) from error
