"""Kernels asked for by name (TVR_KERNELS) that do not exist or cannot run: from their own errors to ours."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from tvr_cli.errors import ConfigError, EnvironmentProblem, did_you_mean


@contextlib.contextmanager
def kernel_errors() -> Iterator[None]:
    """Around everything that scores; also a decorator.

    Raises ConfigError for an unknown name in TVR_KERNELS, EnvironmentProblem when the one named cannot run here.
    """
    from tvr_kernels import _dispatch

    named = os.environ.get("TVR_KERNELS") or "auto"
    if named not in _dispatch.CHOICES:
        near = did_you_mean(named, _dispatch.CHOICES)
        raise ConfigError(f"TVR_KERNELS: expected one of {', '.join(_dispatch.CHOICES)}, found {named!r}{near}")
    try:
        yield
    except _dispatch.KernelUnavailable as e:
        raise EnvironmentProblem(str(e)) from e
