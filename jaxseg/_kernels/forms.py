"""Which form computes the sums over pixels on which platform.

A form is a module with the ``forward`` and ``backward`` of the plain form. It takes any terms and
gives the same numbers. The choice is made when a function is traced, for each platform that the
program may be compiled for. Pallas is imported only where a kernel is chosen.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol

import jax
from jax import Array

from jaxseg._kernels import cpu, plain
from jaxseg._kernels.plain import Gradients, Sums

FIRST_JAX_THAT_ASKS = (0, 11, 0)  # for the GPU that a kernel is lowered for
TRITON = "jax.experimental.pallas.triton"


class Form(Protocol):
    """A module that computes sums and their gradients, as the plain form does."""

    @property
    def forward(self) -> Callable[..., tuple[Sums, Array | None]]:
        """The sums, and a residual."""

    @property
    def backward(self) -> Callable[..., Gradients]:
        """The gradients of the inputs."""


def forms() -> dict[str, Form]:
    """The form for each platform."""
    return {
        "cpu": cpu,
        "cuda": _kernel("gpu") if gpu_gets_kernel() else plain,
        "tpu": _kernel("tpu") if tpu_gets_kernel() else plain,
        "default": plain,
    }


def class_kernel() -> Callable[..., tuple[Array, Array]] | None:
    """The kernel for "cuda" of the cross-entropy of each pixel, if there is one."""
    if not gpu_gets_kernel():
        return None
    kernel: Callable[..., tuple[Array, Array]]
    kernel = import_module("jaxseg._kernels.gpu").neg_log_p_of_class
    return kernel


def distance_kernel() -> Callable[[Array, int, Array | None], Array] | None:
    """The kernel for "cuda" of a distance transform along one axis, if there is one."""
    if not gpu_gets_kernel():
        return None
    kernel: Callable[[Array, int, Array | None], Array]
    kernel = import_module("jaxseg._kernels.distance_gpu").least_along
    return kernel


def gpu_gets_kernel() -> bool:
    """Whether a program for "cuda" gets the kernel.

    From JAX 0.11 on, a kernel can only be lowered where the default device is a GPU, or where a GPU
    is described. Before, the plugin for CUDA must be there, since JAX does not export kernels.
    """
    if os.environ.get("JAXSEG_KERNELS") == "0":
        return False
    if jax.__version_info__ < FIRST_JAX_THAT_ASKS:
        if not any(find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
            return False
    elif _default_platform() not in ("gpu", "cuda"):
        return False
    return find_spec(TRITON) is not None  # JAX will remove it


def tpu_gets_kernel() -> bool:
    """Whether a program for TPUs gets the kernel: only if the environment asks for it."""
    is_on = os.environ.get("JAXSEG_KERNELS") != "0"
    return is_on and os.environ.get("JAXSEG_TPU_KERNELS") == "1"


def _default_platform() -> str:
    """The platform of the described device, or of the default device."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    device = device or getattr(jax.config, "jax_default_device", None) or jax.local_devices()[0]
    platform: str = getattr(device, "platform", device)
    return platform


def _kernel(name: str) -> Form:
    form: Form = import_module(f"jaxseg._kernels.{name}")
    return form
