"""The command, from a saved model to a signal."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest

from prealign.cli import main
from prealign.models.files import save_model

httpx = pytest.importorskip("httpx")
run = pytest.importorskip("prealign.serve.run", reason='needs pip install "prealign[serve]"')


def command(*args):
    script = "from prealign.cli import main; main()"
    return [sys.executable, "-c", script, "serve", *map(str, args)]


@contextmanager
def ending(process, sent):
    """Send a signal at the end, and keep what was written to stderr."""
    try:
        yield
    finally:
        process.send_signal(sent)
        process.told = process.communicate(timeout=30)[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model, vocabulary):
    found = tmp_path_factory.mktemp("models") / "my-model"
    save_model(found, model, vocabulary, card="A model for tests.")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_a_saved_model_until_it_is_told_to_end(folder, tmp_path, sent):
    keys = tmp_path / "keys"
    keys.write_text("a key of sixteen letters\n")
    asked = command(
        folder, "--policy", "lock", "--mode", "ai", "--also", "stay", "--port", 0,
        "--api-key-file", keys, "rows=4", "limits.max_tokens=30",
    )  # fmt: skip
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(asked, env=os.environ, **pipes) as process, ending(process, sent):
        line = process.stdout.readline()
        assert "my-model behind lock ai, stay (guard" in line
        url = re.search(r"http://\S+", line).group()
        header = {"Authorization": "Bearer a key of sixteen letters"}
        transport = httpx.HTTPTransport(retries=20)
        with httpx.Client(transport=transport, headers=header, timeout=30) as client:
            body = {"prompt": "def", "max_tokens": 5}
            found = client.post(url + "/v1/completions", json=body)
            assert found.status_code == 200
            assert found.json()["model"] == "my-model"
            body["max_tokens"] = 31
            assert client.post(url + "/v1/completions", json=body).status_code == 400
    assert process.returncode in (0, -sent)
    assert process.told == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--policy", "lock"], "needs a mode"),
        (["--mode", "ai", "--host", "0.0.0.0"], "--api-key-file"),
        (["--mode", "ai", "--also", "free"], "cannot be offered"),
        (["--mode", "ai", "rows=0"], "rows=0"),
        (["--mode", "ai", "room=100000"], "room=100000"),
        (["--mode", "ai", "others=quote", "hidden=[thought]"], "thought"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(folder, args, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prealign", "serve", str(folder), *args])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_a_port_that_is_taken_is_named(serving, model, vocabulary, serve):
    service = run.make_service("a", model, vocabulary, replace(serving, rows=2))
    with serve(service) as url, pytest.raises(run.ConfigError, match="cannot listen there"):
        run.sockets_at("127.0.0.1", int(url.rpartition(":")[2]))


def test_without_the_extra_the_message_says_what_to_install():
    script = (
        "import sys, importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name: None if name == 'fastapi' else find(name)\n"
        "import prealign.serve"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert 'serve needs fastapi: pip install "prealign[serve]"' in found.stderr
