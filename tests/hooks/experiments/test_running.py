"""Trainings run in processes or one after the other with one result, and continue from a file."""

import json
import sys

import pytest
import torch
from torch import nn

import trainvitals
from helpers.small_experiment import DATA, network
from helpers.warm_python import run_warm

VARY = {"he": "he_normal", "zeros": "zeros"}


def compared(factory=network, **more):
    return trainvitals.experiment(
        factory, DATA, VARY, **{"steps": 20, "seeds": 2, "robustness": False, **more}
    )


@pytest.mark.slow  # two processes that import torch anew
def test_processes_give_the_same_result():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        serial = compared()
    finally:
        torch.set_num_threads(threads)
    parallel = compared(workers=2)
    assert parallel.notes == ()
    for one, other in zip(serial.outcomes, parallel.outcomes, strict=True):
        assert (one.choice, one.seed, one.diagnosis) == (other.choice, other.seed, other.diagnosis)
        assert one.final_loss == pytest.approx(other.final_loss, rel=1e-4)


def test_a_factory_that_cannot_be_pickled_runs_in_one_process():
    result = compared(lambda: network(), workers=2)
    [note] = result.notes
    assert "one process" in note
    assert "factory cannot be pickled" in note
    assert note in str(result)
    assert result.row("he").metric is not None


UNGUARDED = """
import torch, trainvitals
from helpers.small_experiment import network

x = torch.randn(4000, 8)  # more than a pipe holds
result = trainvitals.experiment(
    network, (x, (x[:, 0] > 0).long()), {"a": "he_normal", "b": "zeros"},
    steps=5, seeds=2, workers=2, robustness=False,
)
print(result.notes[0])
"""


def test_a_script_without_a_guard_runs_in_one_process(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    start = (
        f"import sys; sys.path[:] = {sys.path}; __file__ = {str(script)!r}; "
        "exec(compile(open(__file__).read(), __file__, 'exec'))"
    )
    done = run_warm(start, timeout_s=100)
    assert done.returncode == 0, done.stderr
    assert 'put the call under if __name__ == "__main__"' in done.stdout


class TestResume:
    def test_finished_trainings_are_not_run_again(self, tmp_path):
        file, calls = tmp_path / "runs.jsonl", []

        def counted():
            calls.append(1)
            return network()

        first = compared(counted, resume=file)
        needed = len(calls)
        again = compared(counted, resume=file)
        assert again.outcomes == first.outcomes
        assert len(calls) - needed == needed - 4  # two choices times two seeds are not trained

    def test_an_experiment_that_was_stopped_continues(self, tmp_path):
        file = tmp_path / "runs.jsonl"
        whole = compared(resume=file)
        lines = file.read_text().splitlines(keepends=True)
        assert len(lines) == 5
        file.write_text("".join(lines[:3]) + lines[3][:20])  # ended within a line
        assert compared(resume=file).outcomes == whole.outcomes
        assert len(file.read_text().splitlines()) == 5
        assert all(json.loads(line) for line in file.read_text().splitlines())

    def test_more_seeds_add_trainings(self, tmp_path):
        file = tmp_path / "runs.jsonl"
        two = compared(resume=file)
        three = compared(resume=file, seeds=3)
        assert set(two.outcomes) < set(three.outcomes)

    def test_the_file_of_another_experiment_is_refused(self, tmp_path):
        file = tmp_path / "runs.jsonl"
        compared(resume=file)
        with pytest.raises(ValueError, match="steps is 20 there and 30 here"):
            compared(resume=file, steps=30)

    def test_the_file_of_another_model_is_refused(self, tmp_path):
        file = tmp_path / "runs.jsonl"
        compared(lambda: network(), resume=file)
        with pytest.raises(ValueError, match="belongs to another experiment: model is"):
            compared(lambda: network().append(nn.Identity()), resume=file)

    def test_another_file_is_refused_and_unchanged(self, tmp_path):
        file = tmp_path / "notes.txt"
        file.write_text("my notes\n")
        with pytest.raises(ValueError, match="no file of an experiment"):
            compared(resume=file)
        assert file.read_text() == "my notes\n"


class TestThePage:
    def test_it_is_complete_in_one_file(self, tmp_path):
        path = compared().to_html(tmp_path / "page.html")
        text = path.read_text()
        assert "http" not in text.replace("http-equiv", "")
        assert "default-src 'none'" in text
        assert "<script" not in text
        for part in ("he", "zeros", "TV301 symmetric_init", "<svg", "95 % interval"):
            assert part in text

    def test_seven_choices_draw_the_six_best_curves(self, tmp_path):
        result = trainvitals.experiment(
            network, DATA, "learning_rate", steps=20, seeds=2, robustness=False
        )
        text = result.to_html(tmp_path / "page.html").read_text()
        assert text.count('class="line c') == 6
        assert "the six best choices" in text

    def test_names_are_escaped(self, tmp_path):
        result = trainvitals.experiment(
            network, DATA, {"<b>": "he_normal", "&": "zeros"}, steps=2, seeds=2
        )
        text = result.to_html(tmp_path / "page.html").read_text()
        assert "<b>" not in text
        assert "&lt;b&gt;" in text


def test_the_table_has_the_numbers_and_the_reason():
    result = compared()
    lines = str(result).splitlines()
    assert lines[0] == "accuracy, 20 steps, 2 seeds"
    assert lines[3].startswith("he ")
    assert lines[-1] == result.reason
