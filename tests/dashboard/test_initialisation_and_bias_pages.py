"""The state before the training, and the biases, as pages of a run."""

from itertools import pairwise

import pytest

from helpers.fake_runs import FakeRun, healthy_run, vanishing_run
from helpers.sent import charts, table
from trainvitals_dashboard.views.bias import Drift, evenly


def words(app):
    return "\n".join(e.value for e in (*app.markdown, *app.caption, *app.info))


def metrics(app):
    return {m.label: m.value for m in app.metric}


class TestInitialisation:
    def test_it_shows_the_first_loss_beside_the_expected_one_and_the_factors(
        self, open_page, collector
    ):
        collector.runs = [vanishing_run()]
        shown = metrics(open_page("initialisation", run="sigmoid-deep"))
        assert (shown["First loss"], shown["Expected"]) == ("2.41", "2.3")
        assert shown["Signal per layer"] == "χ = 0.25"
        assert shown["Signal changes 1,000 ×"] == "10 layers"

    def test_the_signal_and_the_gradient_are_drawn_through_the_depth(self, open_page, collector):
        collector.runs = [vanishing_run()]
        app = open_page("initialisation", run="sigmoid-deep")
        signal = charts(app)["signal"]
        assert [s["name"] for s in signal["series"]] == ["S, across samples", "M, across units"]
        assert signal["layers"][0] == "encoder.0"
        assert len(charts(app)["gradient"]["series"][0]["points"]["mean"]) == 12

    def test_tensors_with_the_same_initialiser_are_one_row(self, open_page, collector):
        collector.runs = [healthy_run()]
        [row] = table(open_page("initialisation", run="resnet-baseline"), "Initialisers")
        assert (row["initialiser"], row["tensors"]) == ("he_normal (gain 1.41)", "12")
        assert row["names"].endswith("and 8 more")

    def test_what_was_not_measured_is_said(self, open_page, collector):
        run = FakeRun("late")
        run.initial = lambda: {"batches": 0}
        collector.runs = [run]
        app = open_page("initialisation", run="late")
        assert "The first steps of this run were not measured." in words(app)
        assert metrics(app)["First loss"] == "–"
        assert "They were not identified" in words(app)


class TestBias:
    def test_the_small_curve_has_equal_distances_of_steps(self):
        steps = [0, 40, 90, *range(91, 101)]
        drawn = evenly(Drift("bias", steps, [None, 4.0, 9.0, *(s / 10 for s in steps[3:])], []))
        rises = [b - a for a, b in pairwise(drawn)]
        assert (drawn[0], drawn[-1]) == (4.0, 10.0)
        assert rises == pytest.approx([rises[0]] * len(rises))

    def test_the_drift_is_relative_to_the_spread_of_the_output(self, open_page, collector):
        collector.runs = [healthy_run()]
        app = open_page("bias", run="resnet-baseline")
        assert "relative to the spread of the layer's output" in words(app)
        row = table(app, "Biases")[0]
        assert row["bias"].endswith(".bias")
        assert float(row["drift / S"]) > 0
        assert all(line["name"].endswith(".bias") for line in charts(app)["bias"]["series"])

    def test_weights_are_not_listed(self, open_page, collector):
        collector.runs = [healthy_run()]
        rows = table(open_page("bias", run="resnet-baseline"), "Biases")
        assert all(row["bias"].endswith(".bias") for row in rows)
        assert len(rows) == 12

    def test_a_run_without_biases_says_so(self, open_page, collector):
        run = FakeRun("bare", layers=[])
        collector.runs = [run]
        assert "No bias was measured" in words(open_page("bias", run="bare"))

    def test_without_a_run_in_the_url_there_is_a_hint(self, open_page, collector):
        collector.runs = [healthy_run()]
        for page in ("bias", "initialisation"):
            assert "does not name a run" in words(open_page(page))
