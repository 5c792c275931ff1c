"""Run ids can stand in an address, differ for different texts, and agree within a torchrun job."""

import os
import re

import pytest

from helpers.warm_python import run_warm
from trainvitals.arguments import run_of, shared_id
from trainvitals.identity import readable_name

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
}


@pytest.mark.parametrize("text", ["baseline", "lr=1e-3, batch 32", "größer", "v1.2+fix@host"])
def test_a_text_that_can_stand_in_an_address_is_the_id(text, caplog):
    assert run_of(text) == (text, text)
    assert not caplog.records


@pytest.mark.parametrize("text", ["org/model", "a" * 300, "é" * 300, "a\0b", "..", "\n", "a\udcff"])
def test_another_text_becomes_an_id_without_slashes_and_stays_the_name(text, caplog):
    run, name = run_of(text)
    assert 1 <= len(run.encode()) <= 200
    assert not set("/\\\0\n") & set(run)
    assert run.strip(".") == run
    assert len(caplog.records) == 1
    assert run_of(text)[0] == run
    if text == "org/model":
        assert name == text


def test_different_texts_have_different_ids():
    texts = ["a/b", "a-b", "a//b", "a" * 300, "a" * 301]
    assert len({run_of(text)[0] for text in texts}) == len(texts)


def test_without_a_name_every_run_has_its_own_id():
    assert run_of(None)[0] != run_of(None)[0]


def test_a_run_without_a_name_is_shown_with_two_words_and_a_number():
    run, name = run_of(None)
    assert re.fullmatch(r"[a-z]+-[a-z]+-\d{1,2}", name)
    assert name == readable_name(run)


def test_the_name_depends_on_the_id_alone():
    assert readable_name("01M8EMFA20BQYEH1GRDDK2ENFP") == "polite-frog-28"
    assert len({readable_name(str(i)) for i in range(1000)}) > 990


def test_a_restart_another_job_and_another_run_of_the_process_have_other_ids():
    ids = [
        shared_id(TORCHRUN, 1, 0),
        shared_id(TORCHRUN, 1, 1),
        shared_id(TORCHRUN, os.getpid(), 0),
        shared_id({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "1"}, 1, 0),
        shared_id({**TORCHRUN, "TORCHELASTIC_RUN_ID": "job"}, 1, 0),
        shared_id({**TORCHRUN, "MASTER_PORT": "29501"}, 1, 0),
    ]
    assert len(set(ids)) == len(ids)
    assert all(len(i) == 26 for i in ids)


def test_ranks_on_other_nodes_have_other_parents_and_the_same_id():
    nodes = {**TORCHRUN, "TORCHELASTIC_RUN_ID": "job", "LOCAL_WORLD_SIZE": "1"}
    assert shared_id(nodes, 10, 0) == shared_id(nodes, 20, 0)


def test_one_process_has_no_shared_id():
    assert shared_id({}, 1, 0) is None
    assert shared_id({**TORCHRUN, "WORLD_SIZE": "1"}, 1, 0) is None


def test_the_ranks_of_a_torchrun_job_watch_one_run(tmp_path):
    script = (
        "import torch, trainvitals\n"
        "model = torch.nn.Linear(2, 1)\n"
        "for _ in range(2):\n"
        "    monitor = trainvitals.watch(model, collector='off')\n"
        "    print(monitor.run, flush=True)\n"
        "    monitor.close()\n"
    )
    first, second = (
        run_warm(
            script,
            env={**os.environ, **TORCHRUN, "RANK": str(rank), "TRAINVITALS_REPORT": "off"},
            cwd=tmp_path,
        ).stdout.split()
        for rank in range(2)
    )
    assert first == second
    assert len(set(first)) == 2
