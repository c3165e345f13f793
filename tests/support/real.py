"""What a test does when a real component cannot start: fail in CI, skip with advice elsewhere."""

import os
from typing import NoReturn

import pytest


def unavailable(reason: str) -> NoReturn:
    """Fail when `CI=true`, otherwise skip; `reason` says what to install."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"real component missing in CI: {reason}", pytrace=False)
    pytest.skip(reason)
