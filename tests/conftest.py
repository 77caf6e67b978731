"""What all tests share: the seed, hypothesis' profile, and a backend of matplotlib."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("MPLBACKEND", "Agg")

# No deadlines: the first call of a compiled or lazily imported function is slow.
_shared = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", _shared)
settings.register_profile("ci", _shared, derandomize=True, print_blob=True)
settings.register_profile("thorough", _shared, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.getenv("CI") else "dev"))


@pytest.fixture
def seed() -> int:
    """Seed of a test's data: 0, or the number in ``MIXEXPERTS_SEED``.

    A test that takes it must hold for any seed; run it over many of them now and then.
    """
    return int(os.environ.get("MIXEXPERTS_SEED", "0"))
