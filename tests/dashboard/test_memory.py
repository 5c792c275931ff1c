"""A collection of garbage after a page was shown does not visit the modules of the process."""

import gc
import weakref

import pytest

from trainvitals_dashboard.parts import memory
from trainvitals_dashboard.parts.memory import freeze_once


@pytest.fixture(autouse=True)
def unfrozen(monkeypatch):
    monkeypatch.setattr(memory, "_visited", set())
    gc.unfreeze()
    yield
    gc.unfreeze()


class Node:
    """An object that can be in a cycle."""

    def __init__(self) -> None:
        self.itself = self


def test_the_first_visit_of_each_page_freezes_and_no_later_one():
    assert [freeze_once(page) for page in ("", "run", "run", "")] == [True, True, False, False]
    assert gc.get_freeze_count() > 1_000


def test_garbage_is_collected_before_the_freeze_and_after_it():
    before = weakref.ref(Node())
    freeze_once("run")
    after = weakref.ref(Node())
    gc.collect()
    assert (before(), after()) == (None, None)


def test_a_page_that_is_shown_leaves_few_objects_to_visit(open_page):
    open_page("fleet")
    assert len(gc.get_objects()) < gc.get_freeze_count() / 4
