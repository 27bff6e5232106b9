"""Time and memory of jaxseg beside other libraries.

    python -m tests.benchmarks --out results
    python -m tests.benchmarks --only counting --rounds 5
    python -m tests.benchmarks --compile-for h200

Run from the checkout's root. docs/benchmarks.md says what is measured.
"""

import argparse
import json
import os
import warnings
from pathlib import Path

# Before anything imports torch: its idle threads would spin on the cores that the next contender
# needs, and then each slows the other several times.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")
# A first call compiles: nothing of an earlier run is used.
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
warnings.filterwarnings("ignore", message="dynamo_pgo force disabled")  # for every case
# JAX and torch share a GPU's memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax

from tests.benchmarks import compiled, compilers, measure, report
from tests.benchmarks.families import FAMILIES


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=15, help="default: %(default)s")
    parser.add_argument(
        "--only", choices={**FAMILIES, **compiled.FAMILIES}, help="one family; default: all"
    )
    parser.add_argument(
        "--compile-for",
        choices=compilers.DEVICES,
        help="compile the suite for a device that need not be here, and run nothing",
    )
    parser.add_argument("--quick", action="store_true", help="a few small inputs, to try it")
    parser.add_argument("--out", type=Path, help="folder for results and plots; default: print")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds must be 1 or more, got {options.rounds}")
    offered = compiled.FAMILIES if options.compile_for else FAMILIES
    if options.only and options.only not in offered:
        parser.error(f"--only must be one of {', '.join(offered)}, got {options.only}")
    if options.compile_for:
        try:
            compile_suite(options.compile_for, options.only, options.quick, options.out)
        except compilers.MissingCompiler as error:
            parser.exit(2, f"{error}\n")
        return

    jax.config.update("jax_enable_compilation_cache", False)
    rows: list[report.Row] = []
    for name in [options.only] if options.only else FAMILIES:
        rows += FAMILIES[name](options.rounds, options.quick)
    notes = ["`--quick`: sizes at which times say little."] if options.quick else []
    results = {
        "machine": measure.machine(),
        "versions": measure.versions(),
        "notes": notes,
        "rows": rows,
    }
    if options.out is None:
        print(report.markdown(results))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        drawn = report.plots(rows, options.out)
    except ImportError as error:
        notes.append(f"No plots: {error}.")
        drawn = []
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.out / "results.md").write_text(report.markdown(results))
    print(*(options.out / name for name in ("results.json", "results.md")), *drawn, sep="\n")


def compile_suite(device: str, only: str | None, quick: bool, out: Path | None) -> None:
    jax.config.update("jax_platforms", "cpu")  # nothing runs
    jax.config.update("jax_enable_compilation_cache", False)
    compilers.require(device)
    for results in compiled.results(device, only, quick):
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            paths = out / f"compiled-{device}.json", out / f"compiled-{device}.md"
            paths[0].write_text(json.dumps(results, indent=1) + "\n")
            paths[1].write_text(compiled.markdown(results))
    print(compiled.markdown(results) if out is None else "\n".join(map(str, paths)))


if __name__ == "__main__":
    main()
