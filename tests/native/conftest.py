"""The compiled kernels, without which these tests are skipped."""

from __future__ import annotations

import pytest

from tf_simclr import native


@pytest.fixture
def kernels(monkeypatch):
    """The kernels, whatever the environment says. `test_compiling` tests that they compile."""
    monkeypatch.delenv(native.SWITCH, raising=False)
    return native.kernels() or pytest.skip("no kernels")
