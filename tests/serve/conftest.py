"""A small model behind a server that runs in this process."""

import threading
import time
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from prealign.models.create import LlamaShape, make_model
from prealign.text.scheme import TWO_MODES
from prealign.tokens.tokenizer import train_text_tokenizer
from prealign.tokens.vocabulary import Vocabulary

NEEDED = ("fastapi", "uvicorn", "prometheus_client", "httpx")
if all(find_spec(name) for name in NEEDED):
    import httpx

    from prealign.serve.access import Keys
    from prealign.serve.run import Serving, make_server, make_service
    from prealign.serve.settings import Limits

    LIMITS = Limits(max_body=20_000, queue=40, max_tokens=200, max_choices=8, body_timeout_s=0.5)
    SERVING = Serving(mode="ai", also=("lock-noquote", "stay"), rows=8, limits=LIMITS)
else:  # the tests themselves say what is missing, and are skipped
    collect_ignore_glob = ["test_*.py"]

TEXT = "def half(x):\n    return x / 2\n\n\nprint(half(4))\n"
KEY, ADMIN = "a key for the tests", "an admin key for the tests"


@pytest.fixture(scope="session")
def vocabulary():
    return Vocabulary(train_text_tokenizer([TEXT], size=262), TWO_MODES)


@pytest.fixture(scope="session")
def model(vocabulary):
    """Weights far from zero, and quotes opened and closed often."""
    shape = LlamaShape(width=32, layers=2, heads=4, kv_heads=2, max_tokens=256, tied=False)
    model = make_model(shape, vocabulary.size, seed=0)
    for weight in model.parameters():
        weight.data *= 4
    for tag in ("<quote>", "</quote>", "</ai>"):
        model.lm_head.weight.data[vocabulary.tag_ids[tag]] *= 2
    return model


@contextmanager
def live(service, keys=None):
    """Run a server in a thread; yield its address."""
    server = make_server(service, port=0, keys=keys)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server did not end"


@pytest.fixture(scope="session")
def key():
    return KEY


@pytest.fixture(scope="session")
def admin():
    return {"Authorization": f"Bearer {ADMIN}"}


@pytest.fixture(scope="session")
def serve():
    return live


@pytest.fixture(scope="session")
def serving():
    return SERVING


@pytest.fixture(scope="session")
def service(model, vocabulary):
    return make_service("tiny", model, vocabulary, SERVING)


@pytest.fixture(scope="session")
def url(service):
    with live(service, Keys((KEY,), (ADMIN,))) as found:
        yield found


@pytest.fixture(scope="session")
def http(url):
    with httpx.Client(
        base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=30, trust_env=False
    ) as client:
        yield client
