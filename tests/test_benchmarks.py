"""The benchmarks' harness, and each script end to end on tiny inputs."""

import csv
import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from benchmarks.harness import (
    RESULTS,
    TABLES,
    Measurement,
    PeakMemory,
    Spread,
    interleaved_seconds,
    markdown,
    ratio_summary,
    ratios,
    read_rows,
    record,
    spread,
)
from tests.places import ROOT

MEASURED = ["op", "provider", "mode", "metric", "unit", "x_name", "x_value", "p50", "p20", "p80", "config"]
MACHINE = ["device", "torch", "triton", "commit", "date"]


def measurement(
    provider: str, metric: str, value: float, unit: str = "samples/s", x_value: str = "4096"
) -> Measurement:
    values = Spread(value, value * 0.5, value * 2)
    return Measurement("step", provider, "train", metric, unit, "vocabulary", x_value, values, "8 samples, float32")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0], (3.0, 3.0, 3.0)),
        ([2.0, 1.0], (1.5, 1.2, 1.8)),
        ([5.0, 1.0, 4.0, 2.0, 3.0, 6.0], (3.5, 2.0, 5.0)),  # the fifths of 1..6 fall on 2 and 5
    ],
)
def test_spread(values: list[float], expected: tuple[float, ...]) -> None:
    assert spread(values) == pytest.approx(expected)


def test_ratios_are_taken_round_by_round() -> None:
    assert ratios([2.0, 20.0], [1.0, 10.0]) == [2.0, 2.0]  # a machine ten times slower in round two changes nothing
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_providers_take_turns_and_warm_up_rounds_are_not_counted() -> None:
    calls: list[str] = []
    providers = {name: lambda name=name: calls.append(name) for name in "AB"}
    seconds = interleaved_seconds(providers, rounds=3, warmup_rounds=2)
    assert "".join(calls) == "ABABABABAB"
    assert {name: len(values) for name, values in seconds.items()} == {"A": 3, "B": 3}
    assert all(value > 0 for values in seconds.values() for value in values)


def test_peak_memory_sees_what_was_freed_again() -> None:
    peak = PeakMemory()
    (b"x" * (64 * 2**20)).count(b"x")
    assert 60 < peak.mib_over_base() < 160


def test_rows_survive_the_csv(tmp_path: Path) -> None:
    path = tmp_path / "new" / "step.csv"
    written = record([measurement("ours", "throughput", 12.345678)], path)
    assert read_rows(path) == written
    with path.open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert list(line) == MEASURED + MACHINE
    assert (line["p50"], line["p20"], line["p80"]) == ("12.346", "6.1728", "24.691")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", line["date"])
    assert "thread" in line["device"]


def test_table_has_a_line_for_every_x_and_a_dash_for_what_was_not_measured(tmp_path: Path) -> None:
    measured = [
        measurement("port", "throughput", 10.0),
        measurement("ours", "throughput", 14.0),
        measurement("port/ours", "time_ratio", 1.4, unit="x"),
        measurement("port", "throughput", 3.0, x_value="32768"),
        measurement("port", "loss", 8.0, x_value="1"),  # in no column: no line
    ]
    rows = record(measured, tmp_path / "step.csv")
    lines = markdown(rows, TABLES["step"][:3]).splitlines()
    assert lines[2] == "| train | 4096 | 10.00 | 14.00 | 1.40× |"
    assert lines[3] == "| train | 32768 | 3.00 | – | – |"
    assert lines[4] == ""
    assert f"torch {rows[0].torch}" in lines[-1]
    assert ratio_summary(rows) == {"port/ours time_ratio · train · vocabulary 4096": 1.4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ratio"),
    [
        ("step", "port/ours time_ratio"),
        ("pipeline", "processor/ours time_ratio"),
        ("kernels", "loop/definition time_ratio"),
        ("plan", "random/ours imbalance_ratio"),
        ("cache", "decode/hit time_ratio"),
        ("resume", "replay/counted time_ratio"),
    ],
)
def test_quick_run(name: str, ratio: str, tmp_path: Path) -> None:
    """Pass its own equality check; write CSV and picture; the last line of its output is JSON with the ratios."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"bench_{name}.py"), "--quick", "--output", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / f"{name}.csv")
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary == ratio_summary(rows)
    assert any(key.startswith(ratio) and value > 0 for key, value in summary.items())
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_step_with_other_losses_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench_step = _import_script("bench_step", monkeypatch)
    monkeypatch.setattr(bench_step, "LOSS_TOLERANCE", -1.0)
    monkeypatch.setattr(sys, "argv", ["bench_step.py", "--quick", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="losses differ") as stopped:
        bench_step.main()
    assert isinstance(stopped.value.code, str)  # the interpreter prints it and exits with 1
    assert not list(tmp_path.iterdir())


def test_other_patches_than_the_processors_stop_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    bench_pipeline = _import_script("bench_pipeline", monkeypatch)
    (case,) = bench_pipeline.QUICK_CASES
    bench_pipeline.check(case)
    monkeypatch.setattr(bench_pipeline, "TOLERANCE", -1.0)
    with pytest.raises(SystemExit, match="patches differ"):
        bench_pipeline.check(case)


def test_a_plan_that_is_wrong_stops_its_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    bench_plan = _import_script("bench_plan", monkeypatch)
    costs = _import_script("plan_costs", monkeypatch).mixed_costs(1000)
    plan = bench_plan.PROVIDERS["ours"](costs)
    bench_plan.check(costs, plan)
    with pytest.raises(SystemExit, match="every sample once"):
        bench_plan.check(costs, dataclasses.replace(plan, samples=np.zeros_like(plan.samples)))
    with pytest.raises(SystemExit, match="over a limit"):
        bench_plan.check(costs, dataclasses.replace(plan, offsets=plan.offsets[[0, -1]]))


def test_resuming_elsewhere_stops_the_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    bench_resume = _import_script("bench_resume", monkeypatch)
    data = bench_resume.Data(bench_resume.harness.CACHE / "resume", bench_resume.QUICK_ROWS)
    bench_resume.check(data, 50)
    loader = data.loader
    monkeypatch.setattr(data, "loader", lambda kind, position: loader(kind, position and position + 1))
    with pytest.raises(SystemExit, match=r"counted: .* 50\b"):
        bench_resume.check(data, 50)


def test_frames_that_are_not_found_again_stop_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench_cache = _import_script("bench_cache", monkeypatch)
    (case,) = bench_cache.QUICK_CASES
    reader = bench_cache.cached_reader(tmp_path)
    bench_cache.check(case, 64, reader)
    (frames,) = (path for path in tmp_path.glob("??/*") if path.stat().st_size > 9999)
    monkeypatch.setattr(type(reader._folder), "read", lambda self, name: None)
    with pytest.raises(SystemExit, match="frames that were kept are not found"):
        bench_cache.check(case, 64, reader)
    others = bytearray(frames.stat().st_size - 4)
    monkeypatch.setattr(type(reader._folder), "read", lambda self, name: others if name == frames.name else None)
    with pytest.raises(SystemExit, match="frames that were found are others"):
        bench_cache.check(case, 64, reader)


def test_a_loop_with_another_result_stops_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    bench_kernels = _import_script("bench_kernels", monkeypatch)
    kernel_cases = _import_script("kernel_cases", monkeypatch)
    case = next(kernel_cases.make_cases(kernel_cases.mixed_batch(2, 1, 2), torch.float32, "cpu"))
    bench_kernels.require_equal(case, torch.float32, {"loop": case.loop})
    with pytest.raises(SystemExit, match=r"pack_patches, forward: loop "):
        bench_kernels.require_equal(case, torch.float32, {"loop": lambda: tuple(part + 1 for part in case.loop())})


def test_the_benchmark_of_a_gpu_compares_all_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its way through every op, on a CPU and with made-up times: the results that it requires to be equal are computed."""
    bench_kernels = _import_script("bench_kernels", monkeypatch)
    monkeypatch.setattr(torch, "compile", lambda run: run)  # minutes of a compiler that a GPU does not use
    monkeypatch.setattr(bench_kernels, "_milliseconds", lambda _: Spread(2.0, 1.0, 3.0))
    monkeypatch.setattr(bench_kernels, "_copy_bandwidth", lambda: 1e9)
    measurements = list(bench_kernels.measure_gpu(quick=True, dtypes=[torch.bfloat16], device="cpu"))
    modes = {measurement.mode for measurement in measurements}
    assert len(modes) == 2 + 3 * 3  # two ops without a gradient, three with one
    providers = {m.provider for m in measurements if m.metric == "milliseconds"}
    assert providers == {"kernel", "loop", "eager", "compiled"}
    assert len(measurements) == len(modes) * (4 + 3 + 1)  # times, ratios to the kernel, share of the bandwidth


def test_the_kernels_readme_shows_what_the_csv_files_say(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel_tables = _import_script("kernel_tables", monkeypatch)
    readme = kernel_tables.README.read_text()
    assert kernel_tables.filled(readme) == readme
    assert "Not yet run on a GPU" in readme or (RESULTS / "kernels_gpu.csv").is_file()


def _import_script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """As `python benchmarks/NAME.py` finds its neighbours."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module(name)


@pytest.mark.parametrize("name", ["cache", "merge", "opens", "pipeline", "plan", "resume", "step"])
def test_the_page_of_benchmarks_shows_what_the_csv_says(name: str) -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    shown = re.search(rf"<!-- bench:{name} -->\n(.*?)\n<!-- /bench:{name} -->", page, re.DOTALL)
    assert shown is not None
    assert shown[1].strip() == markdown(read_rows(RESULTS / f"{name}.csv"), TABLES[name])
