"""Write the Grafana boards, in the classic schema (v1) and in schema v2.

python deploy/grafana/boards.py            # write v1/*.json and v2/*.json
python deploy/grafana/boards.py --check    # exit 1 when a file is out of date
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Final

from schemas import Board, Panel, Variable, classic, v2

HERE: Final = Path(__file__).parent

PROJECT = Variable("project", "label_values(trainvitals_run_info, project)", multi=True)
RUN = Variable("run", 'label_values(trainvitals_run_info{project=~"$project"}, run)')
LAYER = Variable("layer", 'label_values(trainvitals_layer_weight_rms{run="$run"}, layer)', True)
OF_RUN = 'project=~"$project", run="$run"'


def _of_run(name: str, by: str = "", more: str = "") -> str:
    """Return the expression that merges the collectors of one database."""
    labels = f" by ({by})" if by else ""
    return f"max{labels} (trainvitals_{name}{{{OF_RUN}{more}}})"


FLEET = Board(
    "trainvitals-fleet",
    "trainvitals: fleet",
    (
        Panel("Runs by state", (("state:trainvitals_runs:count", "{{state}}"),),
              "Runs that ended more than ten minutes ago are not counted.", kind="stat"),
        Panel("Open errors", (('sum(run_rule:trainvitals_findings_active:max{severity="error", project=~"$project"}) or vector(0)', "errors"),),
              "Findings of severity error that are open now.", kind="stat"),
        Panel("Open warnings", (('sum(run_rule:trainvitals_findings_active:max{severity="warning", project=~"$project"}) or vector(0)', "warnings"),),
              "Findings of severity warning that are open now.", kind="stat"),
        Panel("Health", (('max by (project, run) (trainvitals_run_health{project=~"$project"})', "{{run}}"),),
              "1: no findings; 0: broken.", unit="percentunit", width=12),
        Panel("Training loss", (('max by (project, run) (trainvitals_run_loss{project=~"$project", split="training"})', "{{run}}"),),
              "The newest training loss of each run.", width=12, is_log=True),
        Panel("Open findings", (('run_rule:trainvitals_findings_active:max{project=~"$project"} > 0', ""),),
              "One row for each run and rule.", kind="table", width=12),
        Panel("Steps per second", (('1 / max by (project, run) (trainvitals_run_step_duration_seconds{project=~"$project"})', "{{run}}"),),
              "From the median duration of the newest 32 steps.", unit="reqps", width=12),
    ),
    (PROJECT,),
)  # fmt: skip

RUN_BOARD = Board(
    "trainvitals-run",
    "trainvitals: run",
    (
        Panel("State", ((f'max by (state) (trainvitals_run_state{{{OF_RUN}}}) == 1', "{{state}}"),),
              "The current state.", kind="stat", width=6),
        Panel("Health", ((_of_run("run_health"), "health"),), "1: no findings; 0: broken.",
              unit="percentunit", kind="stat", width=6),
        Panel("Step", ((_of_run("run_step"), "step"), (_of_run("run_planned_steps"), "planned")),
              "The newest step and the number of planned steps.", kind="stat", width=6),
        Panel("Since the last report", ((f"time() - {_of_run('run_last_report_timestamp_seconds')}", "silence"),),
              "Seconds since the collector received anything of the run.", unit="s", kind="stat", width=6),
        Panel("Loss", ((_of_run("run_loss", "split"), "{{split}}"),),
              "By split; a gap is a loss that is not finite.", width=12, is_log=True),
        Panel("Gradient norm", ((_of_run("run_gradient_norm"), "as used"), (_of_run("run_gradient_norm_before_clipping"), "before clipping")),
              "Total L2 norm.", width=12, is_log=True),
        Panel("Update ratio", ((_of_run("run_update_ratio"), "median"),),
              "RMS(update)/RMS(weight); healthy around 1e-3.", is_log=True),
        Panel("Learning rate", ((_of_run("run_learning_rate", "group"), "group {{group}}"),), "By parameter group."),
        Panel("Step duration", ((_of_run("run_step_duration_seconds"), "median"),), "Median of the newest 32 steps.", unit="s"),
        Panel("Open findings", ((f"run_rule:trainvitals_findings_active:max{{{OF_RUN}}} > 0", "{{rule}} ({{severity}})"),),
              "Number of places at which a rule fires."),
        Panel("Non-finite values and skipped updates",
              ((f"max by (kind) (increase(trainvitals_run_nonfinite_values_total{{{OF_RUN}}}[5m]))", "{{kind}}"),
               (f"max by (reason) (increase(trainvitals_run_optimizer_steps_skipped_total{{{OF_RUN}}}[5m]))", "skipped: {{reason}}")),
              "In the last five minutes."),
        Panel("Loss scale and overhead", ((_of_run("run_loss_scale"), "loss scale"), (_of_run("run_capture_overhead_ratio"), "overhead")),
              "Of the gradient scaler; CPU time of trainvitals as a share of the step time.", is_log=True),
        Panel("Logged scalars", ((_of_run("run_scalar", "name"), "{{name}}"),),
              "Those that the collector's setting metrics_scalars names.", width=24),
    ),
    (PROJECT, RUN),
)  # fmt: skip

_LAYER = ', layer=~"$layer"'
LAYERS = Board(
    "trainvitals-layers",
    "trainvitals: layers",
    (
        Panel("Update ratio", ((_of_run("layer_update_ratio", "layer", _LAYER), "{{layer}}"),),
              "Needs metrics_detail = layer. RMS(update)/RMS(weight) of the layers farthest from 1e-3.", width=24, is_log=True),
        Panel("Gradient RMS", ((_of_run("layer_gradient_rms", "layer", _LAYER), "{{layer}}"),),
              "A gap is a gradient that is not finite.", width=12, is_log=True),
        Panel("Weight RMS", ((_of_run("layer_weight_rms", "layer", _LAYER), "{{layer}}"),),
              "Grows without bound when weights explode.", width=12, is_log=True),
        Panel("Gradient spread over layers", ((_of_run("run_gradient_norm_layer_spread_ratio"), "largest / smallest"),),
              "Largest gradient RMS of all weight tensors divided by the smallest.", width=12, is_log=True),
        Panel("Layers without series", ((_of_run("layers_left_out"), "left out"),),
              "Only the worst 20 layers have series; the dashboard of trainvitals shows all.", kind="stat", width=12),
    ),
    (PROJECT, RUN, LAYER),
)  # fmt: skip

_INSTANCE = 'instance=~"$instance"'
COLLECTOR = Board(
    "trainvitals-collector",
    "trainvitals: collector",
    (
        Panel("Version", ((f"trainvitals_build_info{{{_INSTANCE}}}", "{{instance}} {{version}}"),), "Of each collector.", kind="stat", width=6),
        Panel("Database", ((f"trainvitals_storage_bytes{{{_INSTANCE}}}", "{{instance}}"),), "Size on disk.", unit="bytes", kind="stat", width=6),
        Panel("Write queue", ((f"trainvitals_queue_bytes{{{_INSTANCE}}}", "{{instance}}"),), "Batches that wait for the disk.", unit="bytes", width=6),
        Panel("Runs not exported", ((f"trainvitals_runs_left_out{{{_INSTANCE}}}", "{{instance}}"),), "Over the limit of 20,000 series.", kind="stat", width=6),
        Panel("Requests", ((f"sum by (outcome) (rate(trainvitals_ingest_requests_total{{{_INSTANCE}}}[5m]))", "{{outcome}}"),),
              "Batches per second by outcome.", unit="reqps"),
        Panel("Refused share", ((f"instance:trainvitals_ingest_requests_refused:ratio_rate5m{{{_INSTANCE}}}", "{{instance}}"),),
              "Refused batches as a share of all batches.", unit="percentunit"),
        Panel("Stored", ((f"rate(trainvitals_ingest_records_total{{{_INSTANCE}}}[5m])", "{{instance}} records/s"), (f"rate(trainvitals_ingest_bytes_total{{{_INSTANCE}}}[5m])", "{{instance}} bytes/s")),
              "Records and bytes per second.", is_log=True),
        Panel("Lag, 99th percentile", ((f"instance:trainvitals_ingest_lag_seconds:p99_rate5m{{{_INSTANCE}}}", "{{instance}}"),),
              "From the capture of a step to its acknowledgement.", unit="s"),
        Panel("Write duration, 99th percentile", ((f"histogram_quantile(0.99, sum by (instance, le) (rate(trainvitals_storage_write_duration_seconds_bucket{{{_INSTANCE}}}[5m])))", "{{instance}}"),),
              "Until the commit is on the disk.", unit="s"),
        Panel("Diagnosis, 99th percentile", ((f"histogram_quantile(0.99, sum by (instance, le) (rate(trainvitals_rule_evaluation_duration_seconds_bucket{{{_INSTANCE}}}[5m])))", "{{instance}}"),),
              "All rules on one run.", unit="s"),
        Panel("Rounds and errors", ((f"rate(trainvitals_rounds_total{{{_INSTANCE}}}[5m])", "{{instance}} rounds/s"), (f"rate(trainvitals_round_errors_total{{{_INSTANCE}}}[5m])", "{{instance}} errors/s")),
              "Errors: the collector's log has the reason."),
        Panel("Findings opened", ((f"sum by (rule, severity) (increase(trainvitals_findings_total{{{_INSTANCE}}}[1h]))", "{{rule}} ({{severity}})"),), "In the last hour."),
        Panel("Messages", ((f"sum by (channel, outcome) (increase(trainvitals_notifications_total{{{_INSTANCE}}}[1h]))", "{{channel}}: {{outcome}}"),), "Attempts to deliver notifications in the last hour."),
        Panel("Records dropped by trainings", (("max by (reason) (trainvitals_client_dropped_records_total)", "{{reason}}"),), "In all, by reason."),
    ),
    (Variable("instance", "label_values(trainvitals_build_info, instance)", True),),
)  # fmt: skip

BOARDS: Final = (FLEET, RUN_BOARD, LAYERS, COLLECTOR)


def files() -> dict[Path, str]:
    """Return path → text of every file."""
    found = {}
    for board in BOARDS:
        name = f"{board.uid.removeprefix('trainvitals-')}.json"
        for schema, convert in (("v1", classic), ("v2", v2)):
            found[HERE / schema / name] = (
                json.dumps(convert(board), indent=1, ensure_ascii=False) + "\n"
            )
    return found


def main() -> None:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description="Write the Grafana boards.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when stale")
    check = parser.parse_args().check
    stale = [p for p, text in files().items() if not p.exists() or p.read_text() != text]
    if check and stale:
        sys.exit(f"Out of date: {', '.join(p.name for p in stale)}. Run this program again.")
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(files()[path])


if __name__ == "__main__":
    main()
