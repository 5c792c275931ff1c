"""TV607, TV903, TV904: updates or gradients that are rounded away, and skipped steps, for real."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.optim import SGD, Adam  # noqa: E402

from helpers.small_runs import layers  # noqa: E402
from trainvitals.api.schema import Severity  # noqa: E402
from trainvitals.capture.capture import Capture  # noqa: E402
from trainvitals.capture.rounded_weights import rounded_to  # noqa: E402
from trainvitals.diagnosis.example import Example  # noqa: E402
from trainvitals.diagnosis.history import History  # noqa: E402
from trainvitals.diagnosis.rules import absorbed_updates  # noqa: E402
from trainvitals.diagnosis.rules.absorbed_updates import AbsorbedUpdates  # noqa: E402
from trainvitals.diagnosis.rules.amp_overflow import AmpOverflow  # noqa: E402
from trainvitals.diagnosis.rules.amp_underflow import AmpUnderflow  # noqa: E402


@pytest.fixture(autouse=True)
def _the_same_weights_every_time():
    torch.manual_seed(0)


def train(
    model,
    optimizer,
    *,
    steps=24,
    dtype=torch.float32,
    scaler=None,
    factor=1.0,
    micro=1,
    autocast=None,
    after=lambda: None,
):
    """Train on generated data and return what was recorded; `factor` multiplies the loss."""
    torch.set_num_threads(1)
    history = History()
    capture = Capture(model, optimizer, emit=history.add, every=1)
    g = torch.Generator().manual_seed(0)
    for step in range(steps):
        x = torch.randn(32, 16, generator=g)
        y = (x[:, :1] * x[:, 1:2]).tanh()
        with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
            output = model(x.to(dtype))
        loss = factor * nn.functional.mse_loss(output.float(), y)
        capture.loss(loss)
        optimizer.zero_grad()
        if scaler is None:
            loss.backward()
            for group in optimizer.param_groups:
                group.setdefault("rate", group["lr"])
                group["lr"] = group["rate"] if step % micro == 0 else 1e-12
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        after()
    capture.detach()
    return history


class TestAbsorbedUpdates:
    def check(self, *, rate, dtype=torch.bfloat16, kind=Adam, freeze=False, micro=1):
        model = layers(16, 64, 64, 1).to(dtype)
        if freeze:
            model[2].weight.requires_grad_(False)
        trained = [p for p in model.parameters() if p.requires_grad]
        history = train(model, kind(trained, rate), dtype=dtype, micro=micro)
        return list(AbsorbedUpdates().check(history))

    def test_bfloat16_weights_with_a_small_rate_are_reported(self):
        [found] = self.check(rate=1e-5)
        assert found.since_step == 0
        assert "weight matrices" in found.summary

    def test_the_same_rate_in_float32_is_not(self):
        assert not self.check(rate=1e-5, dtype=torch.float32)

    def test_bfloat16_weights_with_a_rate_that_they_can_follow_are_not(self):
        assert not self.check(rate=1e-2)

    def test_frozen_weights_are_left_out(self):
        assert not self.check(rate=1e-2, freeze=True)

    @pytest.mark.parametrize(
        ("unchanged", "without_gradient", "found"),
        [(0.96, 0.3, 1), (0.96, 0.9, 0), (0.999, 0.98, 0)],
        ids=["of the others hardly any changed", "half of the others changed", "hardly any other"],
    )
    def test_the_share_is_that_of_the_entries_with_a_gradient(
        self, unchanged, without_gradient, found
    ):
        history = absorbed_updates._run(unchanged, without_gradient)
        assert len(list(AbsorbedUpdates().check(history))) == found

    def test_a_rate_of_zero_is_another_fault(self):
        assert not self.check(rate=0.0, dtype=torch.float32, kind=SGD)

    def test_steps_that_change_nothing_between_others_are_accumulation(self):
        assert not self.check(rate=1e-2, dtype=torch.float32, kind=SGD, micro=4)


class TestWeightsThatTheProgramRounds:
    def check(self, *, rate, dtype=torch.bfloat16):
        model = layers(16, 64, 64, 1)

        @torch.no_grad()
        def rounding():
            for weight in model.parameters():
                weight.copy_(weight.to(dtype))

        history = train(model, Adam(model.parameters(), rate), steps=40, after=rounding)
        return list(AbsorbedUpdates().check(history))

    @pytest.mark.parametrize(("dtype", "rate"), [(torch.bfloat16, 5e-5), (torch.float16, 1e-5)])
    def test_small_updates_are_reported_with_the_type(self, dtype, rate):
        [found] = self.check(rate=rate, dtype=dtype)
        assert f"to {str(dtype).removeprefix('torch.')} after its steps" in found.summary
        assert found.severity is Severity.WARNING

    def test_updates_that_the_type_can_hold_are_not(self):
        assert not self.check(rate=3e-3)

    def test_float32_weights_are_not(self):
        assert not self.check(rate=5e-5, dtype=torch.float32)

    def test_the_type_of_a_tensor_is_read_in_its_last_bits(self):
        x = torch.randn(64, 64)
        assert rounded_to(x) == ""
        assert rounded_to(x.bfloat16().float()) == "bfloat16"
        assert rounded_to(x.half().float()) == "float16"
        assert rounded_to(torch.zeros(64, 64)) == "", "any type holds zeros"


class TestAmpOverflow:
    def test_a_loss_that_overflows_at_any_scale_is_an_error(self):
        model = layers(16, 32, 1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        history = train(model, SGD(model.parameters(), 0.01), scaler=scaler, factor=1e38, steps=50)
        [found] = AmpOverflow().check(history)
        # At the smallest scale of the search one step passes, and the weights overflow after it.
        assert (found.severity, found.since_step) == (Severity.ERROR, 16)

    def test_a_healthy_scaler_is_not_reported(self):
        model = layers(16, 32, 1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        history = train(model, SGD(model.parameters(), 0.01), scaler=scaler, steps=40)
        assert not list(AmpOverflow().check(history))

    def check(self, skipped, scale=1024.0):
        columns = {"skipped_step": skipped, "loss_scale": np.broadcast_to(scale, len(skipped))}
        return list(AmpOverflow().check(Example(len(skipped)).scalars(**columns).history))

    def test_the_search_for_a_scale_at_the_start_is_not_reported(self):
        assert not self.check(np.arange(400) < 18)

    def test_one_step_in_five_is_a_warning_and_one_in_fifty_is_not(self):
        [found] = self.check(np.arange(400) % 5 == 0)
        assert found.severity is Severity.WARNING
        assert not self.check(np.arange(400) % 50 == 0)

    def test_a_scale_below_one_is_a_warning(self):
        [found] = self.check(np.arange(60) % 50 == 0, np.where(np.arange(60) < 40, 4.0, 0.25))
        assert found.since_step == 40

    def test_a_run_without_a_scaler_is_left_alone(self):
        assert not list(AmpOverflow().check(Example(40).scalars(loss=np.ones(40)).history))


class TestAmpUnderflow:
    def check(self, *, factor=1e-5, autocast=torch.float16, scale=None):
        model = layers(16, 64, 64, 1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale) if scale else None
        history = train(
            model, Adam(model.parameters(), 1e-3), factor=factor, autocast=autocast, scaler=scaler
        )
        return list(AmpUnderflow().check(history))

    def test_a_small_loss_in_float16_is_reported_from_the_first_step(self):
        [found] = self.check()
        assert (found.where, found.since_step) == ("0.weight", 0)
        assert found.evidence[0].seen > 0.5
        assert found.evidence[1].seen < 2e-7

    def test_loss_scaling_removes_it(self):
        assert not self.check(scale=2.0**16)

    def test_a_scale_that_is_too_small_does_not(self):
        assert self.check(scale=1.0)

    def test_a_usual_loss_is_healthy(self):
        assert not self.check(factor=1.0)

    def test_bfloat16_and_float32_have_the_range(self):
        assert not self.check(autocast=torch.bfloat16)
        assert not self.check(autocast=None)
