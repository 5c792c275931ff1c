"""What holds for all tests: no time limit per example, and a collection that costs little.

`make test` starts four workers, and each collects all tests.
"""

import gc
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from helpers.rewriting import rewrite_a_share

# A busy machine is no fault of a property.
settings.register_profile("without_deadline", settings(), deadline=None)
settings.load_profile("without_deadline")


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Collect without the garbage collector, and exempt what was collected from it.

    The million objects of 7,500 tests live until the end; it took 7 % of the CPU of the tests to
    look at them again and again.
    """
    gc.disable()
    rewrite_a_share(session.config, Path(__file__).parent)
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
