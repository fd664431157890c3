"""Fixtures for all tests: one thread, no network."""

import os
import socket
from typing import Any, NoReturn

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

LOCAL = {"127.0.0.1", "::1", "localhost"}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every socket that leaves this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in LOCAL:
            refuse(address)
        connect(self, address)

    def refuse(address: Any) -> NoReturn:
        raise AssertionError(f"a test tried to reach {address}; tests run without network")

    monkeypatch.setattr(socket.socket, "connect", guarded)
