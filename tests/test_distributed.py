"""Whole programs: several processes, a run that is killed and goes on, the examples of both."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
SMALL = ("--height", "48", "--width", "80")
SIZE = (48, 80)


def environment(devices):
    return os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")]),
    }


def start(*arguments, devices, folder):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment(devices),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    try:
        printed, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, printed
    return printed


def run_two(arguments_of, *, devices, folder):
    """Two processes of one program, which find each other on the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    both = [start(*arguments_of(i, address), devices=devices, folder=folder) for i in range(2)]
    try:
        return [finish(process) for process in both]
    finally:
        for process in both:
            process.kill()


def expected(images):
    """The counts ``[4, C]`` of the examples' maps, by NumPy."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        from evaluate_sharded import CLASSES, label_maps
    finally:
        sys.path.remove(str(EXAMPLES))
    classes = len(CLASSES)
    matrix = np.zeros((classes, classes), np.int64)
    for index in range(images):
        predictions, labels = label_maps(index, *SIZE)
        pairs = (labels.astype(np.int64) * classes + predictions)[labels != 255]
        matrix += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    tp = matrix.diagonal()
    fp, fn = matrix.sum(0) - tp, matrix.sum(1) - tp
    return np.stack([tp, fp, fn, matrix.sum() - tp - fp - fn])


def test_the_example_counts_every_pixel_once(tmp_path):
    script = EXAMPLES / "evaluate_sharded.py"
    process = start(
        script, "--images", 19, *SMALL, "--out", "counts.npy", devices=8, folder=tmp_path
    )
    printed = finish(process)
    want = expected(19)
    np.testing.assert_array_equal(np.load(tmp_path / "counts.npy"), want)
    tp, fp, fn, _ = want
    assert f"mean IoU {np.mean(tp / (tp + fp + fn)):.6f}" in printed
    assert f"{19 * 48 * 80:,} pixels on 8 devices (cpu)" in printed
    assert "bicycle" in printed


def test_two_processes_get_the_numbers_of_one(tmp_path):
    script = EXAMPLES / "evaluate_processes.py"
    images = 13  # seven and six: four batches and three, of which the first's last is not full

    def arguments(i, address):
        yield from (script, "--images", images, "--batch", 2, *SMALL, "--out", "counts.npy")
        yield from ("--coordinator", address, "--processes", 2, "--process", i)

    printed = run_two(arguments, devices=2, folder=tmp_path)
    assert "Process 0: 7 images" in printed[0] and "Process 1: 6 images" in printed[1]
    for i in range(2):
        np.testing.assert_array_equal(np.load(tmp_path / f"counts-{i}.npy"), expected(images))


GLOBAL_BATCHES = """
    import sys

    import jax
    import numpy as np
    from evaluate_sharded import CLASSES, VOID, label_maps
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

    import jaxseg

    process, address = int(sys.argv[1]), sys.argv[2]
    jax.distributed.initialize(address, 2, process)
    share = [range(9), range(9, 13)][process]  # five batches of two images, and two
    zero = jaxseg.running(jaxseg.Counts(*np.zeros((4, len(CLASSES)), np.int64)))
    for axis_type in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4,), ("data",), axis_types=(axis_type,))
        sharded = NamedSharding(mesh, P("data"))

        def count(predictions, labels, where):
            where = where[:, None, None] & (labels != VOID)
            return jaxseg.counts(predictions, labels, num_classes=len(CLASSES), where=where)

        step = jax.jit(lambda state, *batch: state + count(*batch))
        body = jax.shard_map(
            lambda *batch: jaxseg.psum(jaxseg.running(count(*batch)), "data"),
            mesh=mesh, in_specs=P("data"), out_specs=P(),
        )
        step_of_parts = jax.jit(lambda state, *batch: state + body(*batch))
        states = [jax.device_put(zero, NamedSharding(mesh, P())) for _ in range(2)]
        for i in range(5):  # a process without images takes part with padding
            maps = [label_maps(index, 48, 80) for index in share[2 * i : 2 * i + 2]]
            maps = np.reshape(maps, (-1, 2, 48, 80)).astype(np.uint8)
            (p, g), where = jaxseg.pad_batch((maps[:, 0], maps[:, 1]), 2)
            batch = [jax.make_array_from_process_local_data(sharded, x) for x in (p, g, where)]
            states = [f(s, *batch) for f, s in zip((step, step_of_parts), states)]
        for name, state in zip(("jit", "shard_map"), states):
            np.save(f"{axis_type}-{name}-{process}.npy", np.stack(jaxseg.total(state)))
"""


def test_batches_that_processes_share(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(GLOBAL_BATCHES), encoding="utf-8")
    run_two(lambda i, address: (program, i, address), devices=2, folder=tmp_path)
    results = sorted(tmp_path.glob("*.npy"))
    assert len(results) == 8
    for result in results:
        np.testing.assert_array_equal(np.load(result), expected(13))


def test_a_killed_evaluation_goes_on(tmp_path):
    images, batch = 240, 2
    arguments = (EXAMPLES / "evaluate_sharded.py", "--images", images, "--batch", batch, *SMALL)
    arguments += ("--checkpoint", "kept", "--every", 1, "--out", "counts.npy")
    killed = start(*arguments, devices=2, folder=tmp_path)
    kept = tmp_path / "kept"
    deadline = time.monotonic() + 120
    while latest(kept) < 10 and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    printed, _ = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, printed
    done = latest(kept)
    assert 10 <= done < images
    assert not (tmp_path / "counts.npy").exists()

    printed = finish(start(*arguments, "--every", images, devices=2, folder=tmp_path))
    assert f"Going on after image {done}" in printed
    np.testing.assert_array_equal(np.load(tmp_path / "counts.npy"), expected(images))


def latest(folder):
    """How many images are in the last sum that was saved whole."""
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    return max(steps, default=0)


@pytest.mark.parametrize("arguments", [("--images", "0"), ("--batch", "3")], ids=str)
def test_wrong_options_are_refused(arguments, tmp_path):
    process = start(EXAMPLES / "evaluate_sharded.py", *arguments, devices=2, folder=tmp_path)
    printed, _ = process.communicate()
    assert process.returncode == 2
    assert "must be" in printed
