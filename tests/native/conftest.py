"""The compiled kernels; without a compiler there is nothing here to test."""

from __future__ import annotations

import pytest

from tf_simclr import native


@pytest.fixture
def kernels(monkeypatch):
    """Whatever the environment says. That they compile, `test_compiling` asks."""
    monkeypatch.delenv(native.SWITCH, raising=False)
    return native.kernels() or pytest.skip("no kernels")
