"""Time of the ops of `apollo_kernels`: Triton kernels against PyTorch on a GPU, CPU references against loops without one.

    python benchmarks/bench_kernels.py [--quick] [--no-static] [--no-tests] [--dtypes bfloat16]

With a GPU: runs the kernels' tests compiled, then takes median times of every op forward, backward and both, at the shapes of the
2B recipe, and writes results/kernels_gpu.csv. Without one: times the definitions against loops over items on one thread, writes
results/kernels.csv. Either way results are compared first: where they differ, nothing is written and the exit status is 1.

Then the static tables, made without running anything on a GPU: code generation, traffic. They say nothing of speed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import harness
import plots
import torch
from harness import Measurement, Spread, spread
from kernel_cases import KernelCase, Result, as_tuple, make_cases, mixed_batch
from torch.testing import assert_close

ROOT = Path(__file__).parents[1]
STATIC = ("codegen", "traffic")  # commands of kernels/verification
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
COPY_BYTES = 1 << 30  # of the buffer whose copy is the bandwidth that kernels are held against


def measure_cpu(quick: bool, rounds: int) -> Iterator[Measurement]:
    """Seconds of definition and loop in turns, and their ratio round by round."""
    batch = mixed_batch(4, 2, 3) if quick else mixed_batch(64, 8, 16)
    for case in make_cases(batch, torch.float32, "cpu"):
        require_equal(case, torch.float32, {"loop": case.loop})
        providers = {"definition": case.kernel, "loop": case.loop}
        seconds = harness.interleaved_seconds(providers, rounds)

        def measurement(
            provider: str, metric: str, unit: str, values: list[float], case: KernelCase = case
        ) -> Measurement:
            return _measurement(case, provider, metric, unit, spread(values), torch.float32, batch.name)

        for provider, values in seconds.items():
            yield measurement(provider, "seconds", "s", values)
        yield measurement("loop/definition", "time_ratio", "x", harness.ratios(seconds["loop"], seconds["definition"]))


def measure_gpu(quick: bool, dtypes: Iterable[torch.dtype], device: str = "cuda") -> Iterator[Measurement]:
    """Milliseconds of every provider, and the kernel's share of the bandwidth of a plain copy, measured in the same run."""
    bandwidth = _copy_bandwidth()
    batch = mixed_batch(4, 2, 3) if quick else mixed_batch(8, 1, 180)  # a sample of the recipe: 9,000 tokens of video
    for dtype in dtypes:
        for case in make_cases(batch, dtype, device):
            print(f"{case.name}, {dtype}", file=sys.stderr, flush=True)  # torch.compile takes its time
            compiled = torch.compile(case.reference)
            providers = {"kernel": case.kernel, "loop": case.loop, "eager": case.reference, "compiled": compiled}
            require_equal(case, dtype, {name: run for name, run in providers.items() if name != "kernel"})
            milliseconds = {name: _milliseconds(run) for name, run in providers.items()}

            def measurement(
                provider: str,
                metric: str,
                unit: str,
                values: Spread,
                case: KernelCase = case,
                dtype: torch.dtype = dtype,
            ) -> Measurement:
                return _measurement(case, provider, metric, unit, values, dtype, batch.name)

            for provider, values in milliseconds.items():
                yield measurement(provider, "milliseconds", "ms", values)
                if provider != "kernel":
                    ratio = values.p50 / milliseconds["kernel"].p50
                    yield measurement(f"{provider}/kernel", "time_ratio", "x", spread([ratio]))
            share = case.num_bytes / (milliseconds["kernel"].p50 / 1e3) / bandwidth
            yield measurement("kernel", "share_of_copy_bandwidth", "share", spread([share]))


def require_equal(case: KernelCase, dtype: torch.dtype, others: dict[str, Callable[[], Result]]) -> None:
    """End the program where a provider's result is not the kernel's."""
    tolerance = TOLERANCE[dtype]
    expected = as_tuple(case.kernel())
    for name, run in others.items():
        try:
            assert_close(as_tuple(run()), expected, atol=tolerance, rtol=tolerance, check_dtype=False)
        except AssertionError as error:
            sys.exit(f"{case.name}: {name} gives another result; nothing is written\n{error}")


def _measurement(
    case: KernelCase, provider: str, metric: str, unit: str, values: Spread, dtype: torch.dtype, batch: str
) -> Measurement:
    x_value = str(dtype).removeprefix("torch.")
    return Measurement("kernels", provider, case.name, metric, unit, "dtype", x_value, values, batch)


def _milliseconds(run: Callable[[], object]) -> Spread:
    import triton

    milliseconds: Any = triton.testing.do_bench(run, return_mode="all")
    return spread(milliseconds)


def _copy_bandwidth() -> float:
    """Bytes a second read and written by a copy on the device."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / (_milliseconds(lambda: target.copy_(source)).p50 / 1e3)


def run_compiled_tests() -> None:
    """The kernels' tests through the GPU's compiler; ends the program where one fails."""
    command = [sys.executable, "-m", "pytest", "tests/kernels", "-m", "not slow", "-q"]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit("the kernels' tests fail on this GPU: no times are taken over a red test")


def write_static(folder: Path, names: Iterable[str]) -> None:
    """Run the commands that look at the code without a GPU; each prints its table and writes a CSV."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(ROOT / "kernels")
    for name in names:
        print(f"\n## Static, {name}: facts of the compiled or interpreted code, not a speed\n", flush=True)
        command = [sys.executable, "-m", f"verification.{name}", "--cases", f"tests.kernels.{name}_cases"]
        command += ["--csv", str(folder / f"kernels_{name}.csv")]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a small batch, two rounds, no static tables, into benchmarks/.cache"
    )
    parser.add_argument("--rounds", type=int, default=7, help="of the CPU benchmark")
    parser.add_argument("--output", type=Path, help="folder of the CSV files and the picture")
    parser.add_argument("--no-static", action="store_true", help="leave the static tables out")
    parser.add_argument(
        "--no-tests", action="store_true", help="on a GPU: leave out the kernels' tests, which ran before"
    )
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="on a GPU (default: bfloat16 float32)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    output = arguments.output or (harness.CACHE / "quick" if arguments.quick else harness.RESULTS)
    output.mkdir(parents=True, exist_ok=True)
    if torch.cuda.is_available():
        name, device = "kernels_gpu", torch.cuda.get_device_name()
        if not arguments.no_tests:
            run_compiled_tests()
        names = arguments.dtypes or (["bfloat16"] if arguments.quick else ["bfloat16", "float32"])
        measurements = list(measure_gpu(arguments.quick, [DTYPES[dtype] for dtype in names]))
    else:
        name, device = "kernels", None
        print("no GPU here: these are the CPU definitions against loops over items, on one thread", flush=True)
        measurements = list(measure_cpu(arguments.quick, 2 if arguments.quick else arguments.rounds))
    rows = harness.record(measurements, output / f"{name}.csv", device)
    plots.plot(output / f"{name}.csv")
    print(harness.markdown(rows, harness.TABLES[name]))
    if not (arguments.quick or arguments.no_static):
        write_static(output, STATIC)
    print(json.dumps(harness.ratio_summary(rows), ensure_ascii=False))


if __name__ == "__main__":
    main()
