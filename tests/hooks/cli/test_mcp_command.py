"""`trainvitals mcp`, driven by an MCP client: a sick run is diagnosed from the tools alone."""

from __future__ import annotations

import os
import sys

import pytest
import torch
from torch import nn

pytest.importorskip("mcp", reason="the MCP SDK is in the extra `mcp`")

import anyio
from mcp import Client, StdioServerParameters

import trainvitals
from helpers.collector import running_collector

TOOLS = {"list_runs", "get_run", "get_findings", "explain_rule", "get_series"}


def train_without_zero_grad(collector):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    watch = {"run": "sick", "collector": collector, "every": 1}
    with trainvitals.watch(model, optimizer, **watch) as monitor:
        for _ in range(30):
            x = torch.randn(16, 6)
            loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())
            monitor.loss(loss).backward()
            optimizer.step()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Return how an MCP client starts the server, for a collector with a sick run."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINVITALS_HOME", str(home / "own"))
        patch.setenv("TRAINVITALS_REPORT", "off")
        with running_collector(home) as collector:
            patch.setenv("TRAINVITALS_TOKEN", collector.token)
            train_without_zero_grad(collector.url)
            arguments = ["-m", "trainvitals", "mcp", "--collector", collector.url]
            yield StdioServerParameters(
                command=sys.executable, args=arguments, env=dict(os.environ)
            )


def ask(served, *calls):
    """Return the results of the calls, (tool, arguments), in one session."""

    async def session():
        async with Client(served) as client:
            return [await client.call_tool(name, given) for name, given in calls]

    return anyio.run(session)


def test_every_tool_is_there_and_says_that_it_only_reads(served):
    async def session():
        async with Client(served) as client:
            return (await client.list_tools()).tools

    tools = anyio.run(session)
    assert {tool.name for tool in tools} == TOOLS
    assert all(tool.annotations.read_only_hint for tool in tools)
    assert all(len(tool.description) > 30 for tool in tools)


def test_an_agent_finds_the_fault_its_meaning_and_its_curve(served):
    [listed] = ask(served, ("list_runs", {}))
    [run] = listed.structured_content["runs"]
    assert run["headline"]["code"] == "TV104"
    found, page, about = ask(
        served,
        ("get_findings", {"run": run["id"]}),
        ("explain_rule", {"code": run["headline"]["code"]}),
        ("get_run", {"run": run["id"]}),
    )
    finding = found.structured_content["findings"][0]
    assert "zero_grad" in finding["fix"]
    assert page.structured_content["rule"] == "missing_zero_grad"
    assert about.structured_content["step"] == 29
    [curve] = ask(served, ("get_series", {"run": run["id"], "places": [finding["statistic"]]}))
    [series] = curve.structured_content["series"]
    assert len(series["step"]) > 10


def test_no_finding_is_not_called_healthy(served):
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    collector = served.args[-1]
    with trainvitals.watch(model, optimizer, run="short", collector=collector):
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
    short, sick = ask(served, *(("get_findings", {"run": run}) for run in ("short", "sick")))
    assert short.structured_content["findings"] == []
    assert short.structured_content["verdict"] in ("too_early", "blind")
    assert sick.structured_content["verdict"] in ("error", "warning")


def test_an_unknown_run_is_an_error_of_the_tool_and_the_server_goes_on(served):
    unknown, listed = ask(served, ("get_run", {"run": "no such run"}), ("list_runs", {}))
    assert unknown.is_error
    assert "No run with this id" in unknown.content[0].text
    assert not listed.is_error
