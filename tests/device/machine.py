"""What a check runs on: one JSON object, with the platform that JAX takes by default."""

import json
import subprocess

import jax

from tests.benchmarks import measure


def driver() -> str | None:
    """The version of NVIDIA's driver, if there is one."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.check_output(command, text=True, timeout=30).split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


if __name__ == "__main__":
    found = {
        "platform": jax.default_backend(),
        "devices": jax.device_count(),
        "driver": driver(),
        "machine": measure.machine(),
        "versions": measure.versions(),
    }
    print(json.dumps(found))
