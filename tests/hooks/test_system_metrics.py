"""What a process uses of its machine: true values, absent ones, and nothing in the training."""

import os
import sys
import time
from types import SimpleNamespace

import pytest
import torch

import trainvitals
from helpers.watching import network, own_home  # noqa: F401 - own_home is a fixture
from trainvitals import system_metrics
from trainvitals.system_metrics import GIB, SystemMetrics


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def read_twice(metrics, clock, *, busy_s=0.0):
    """Return the reading after an interval of `busy_s` seconds, in which this process works."""
    metrics.read_if_due()
    began = time.process_time()
    while time.process_time() - began < busy_s:
        pass
    clock.now += max(busy_s, system_metrics.EVERY_S)
    metrics.read_if_due()
    return metrics.take()


def test_the_first_reading_begins_the_interval_and_is_not_returned():
    metrics = SystemMetrics(Clock())
    metrics.read_if_due()
    assert metrics.take() is None


def test_a_process_that_works_half_of_the_time_uses_half_a_core():
    clock = Clock()
    reading = read_twice(SystemMetrics(clock), clock, busy_s=0.5)
    assert reading["system/process_cores"] == pytest.approx(0.5 / system_metrics.EVERY_S, rel=0.5)
    assert 0 <= reading["system/cpu_share"] <= 1


def test_memory_is_that_of_this_process():
    clock = Clock()
    reading = read_twice(SystemMetrics(clock), clock)
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / GIB
    assert reading["system/process_memory_gib"] == pytest.approx(resident, rel=0.2)
    assert reading["system/available_memory_gib"] > 0


def test_a_reading_is_returned_once_and_made_every_five_seconds():
    clock = Clock()
    metrics = SystemMetrics(clock)
    assert read_twice(metrics, clock)
    assert metrics.take() is None
    clock.now += system_metrics.EVERY_S - 0.1
    metrics.read_if_due()
    assert metrics.take() is None


def gpus(monkeypatch, **changes):
    made = {
        "is_initialized": lambda: True,
        "device_count": lambda: 2,
        "memory_reserved": lambda i: 4096 * i,
        "utilization": lambda i: 75,
        "device_memory_used": lambda i: 3 * 2**30,
    }
    for name, value in (made | changes).items():
        monkeypatch.setattr(torch.cuda, name, value)


def test_a_gpu_is_read_if_the_process_holds_memory_on_it(monkeypatch):
    gpus(monkeypatch)
    clock = Clock()
    reading = read_twice(SystemMetrics(clock), clock)
    assert reading["system/gpu1_share"] == 0.75
    assert reading["system/gpu1_memory_gib"] == 3
    assert not [name for name in reading if "gpu0" in name]


def test_without_the_package_for_gpus_the_reason_is_told_and_the_rest_is_read(monkeypatch):
    def missing(_):
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    gpus(monkeypatch, utilization=missing)
    clock = Clock()
    metrics = SystemMetrics(clock)
    reading = read_twice(metrics, clock)
    assert "nvidia-ml-py" in metrics.problems["use of GPUs"]
    assert "system/process_cores" in reading


def test_a_program_without_torch_or_gpu_has_no_values_of_gpus(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert system_metrics._gpus() == {}
    monkeypatch.setitem(
        sys.modules,
        "torch",
        SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: False)),
    )
    assert system_metrics._gpus() == {}


def trained(monkeypatch, **environment):
    """Return the scalars of a run whose readings are due at once."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(system_metrics, "EVERY_S", 0.1)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = trainvitals.watch(model, optimizer, collector="off")
    began = time.monotonic()
    while time.monotonic() - began < 2.5:
        optimizer.zero_grad()
        monitor.loss(model(torch.ones(4, 8)).square().mean()).backward()
        optimizer.step()
        time.sleep(0.01)
    names = monitor._diagnosis.history.scalar_names()
    monitor.close()
    return {name for name in names if name.startswith("system/")}, monitor.diagnosis()


def test_a_run_records_them_with_its_steps(monkeypatch, own_home):  # noqa: F811
    names, diagnosis = trained(monkeypatch)
    assert "system/process_cores" in names
    assert diagnosis.overhead is not None


def test_the_setting_switches_them_off(monkeypatch, own_home):  # noqa: F811
    names, _ = trained(monkeypatch, TRAINVITALS_SYSTEM_METRICS="0")
    assert not names
