"""Strict settings for every test: nothing promotes, broadcasts or warns unasked; 8 CPU devices."""

import os
from functools import cache
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported

import jax
import pytest
from jax._src import compiler
from jax._src.interpreters import mlir

# Programs, which also import what is not installed for tests.
collect_ignore = ["benchmarks", "device"]

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Thousands of small functions are compiled, each to be called a few times: quickly, and once for
# all processes of the run and for the runs after it.
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".pytest_cache/jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# JAX 0.12 is quick by itself, and compilers for other devices do not know the option.
if jax.__version_info__ < (0, 12) and os.environ["JAX_PLATFORMS"] == "cpu":
    as_users_compile = compiler.get_compile_options

    def with_older_emitters(*args, **kwargs):
        """In half the time; of optimized programs, not."""
        options = as_users_compile(*args, **kwargs)
        if not options.executable_build_options.debug_options.xla_backend_optimization_level:
            options.env_option_overrides += [("xla_cpu_use_fusion_emitters", False)]
        return options

    compiler.get_compile_options = with_older_emitters
    mlir.make_ir_context = cache(mlir.make_ir_context)  # a third of the time of a small program


RUN = pytest.StashKey[int]()  # how many tests this process has run


@pytest.fixture
def optimized():
    """Compile as users do, for tests of memory, of speed and of whole programs."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True)
def _few_programs(request):
    """What JAX compiled for 400 tests goes with them, or it would be gigabytes in the end."""
    yield
    request.session.stash[RUN] = request.session.stash.get(RUN, 0) + 1
    if request.session.stash[RUN] % 400 == 0:
        jax.clear_caches()
        getattr(mlir.make_ir_context, "cache_clear", lambda: None)()
