"""The start and the end of a job of several processes, around `jax.distributed`.

A place in the job comes from the configuration, else from the environment variables that launch/ sets, else from
JAX's own detection of SLURM, Open MPI, Kubernetes and TPU pods; without any of these the process is alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import socket
import sys
import threading
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from wenlan_jax import __version__
from wenlan_jax.config import sections
from wenlan_jax.parallel import rendezvous
from wenlan_jax.util.errors import WenlanError

COORDINATOR, PROCESSES, PROCESS = "WENLAN_COORDINATOR", "WENLAN_PROCESSES", "WENLAN_PROCESS"

OF_ONE_MACHINE = ("distributed.", "compilation.cache", "data.dir", "data.workers", "data.prefetch")
"""Fields that may differ between the processes of a job, by the start of their names."""

BARRIER_MILLISECONDS = 24 * 60 * 60 * 1000
"""A process that dies ends the wait of the others before, by JAX's heartbeats."""

_barriers = itertools.count()  # a barrier is passed once; all processes come to the same ones in the same order

LEAVE_SECONDS = 10.0
"""How long a process that failed waits for the others to end in the same way."""


class DistributedError(WenlanError, RuntimeError):
    """A job that cannot start as configured, or that lost one of its processes."""


@dataclasses.dataclass(frozen=True)
class _Found:
    """A place, the devices it is restricted to (None: all of the machine), and whether JAX has found it itself."""

    place: rendezvous.ProcessPlace
    local_devices: list[int] | None
    detected: bool


def start(settings: sections.DistributedConfig, started_with: Mapping[str, Any]) -> None:
    """Joins the job that this process is part of, if there is one. Call it before anything touches a device.

    Args:
        settings: the section `distributed` of the configuration.
        started_with: what must be equal in all processes, such as `comparable(config)`.

    Raises:
        DistributedError: for a place that is not whole.
        RollCallError: names processes that are missing or were started differently.
    """
    found = _explicit(settings) or _detected(settings.timeout)
    if found is None or found.place.processes == 1 or in_a_job():
        return
    versions = {"version of wenlan_jax": __version__, "version of jax": jax.__version__}
    _spare_the_proxy(found.place.host)
    rendezvous.hold(found.place, {**versions, **started_with}, settings.timeout)
    # Signals are agreed on by stopping.StopAgreement: JAX's own service would take SIGTERM's handler for itself.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_check_proxy_envs", False)  # its warning, for which there is no cause any more
    jax.distributed.initialize(
        found.place.coordinator,
        found.place.processes,
        found.place.process,
        local_device_ids=found.local_devices,
        cluster_detection_method=None if found.detected else "deactivate",
        initialization_timeout=settings.timeout,
        heartbeat_timeout_seconds=settings.heartbeat,
    )


PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
NO_PROXIES = ("no_grpc_proxy", "no_proxy", "NO_PROXY")
"""Environment variables. gRPC, by which JAX's processes talk, reads the first of each that is set, in lower case."""


def _spare_the_proxy(host: str) -> None:
    """Has connections to `host`, process 0 of this job, not go through a proxy for the web, which would refuse them."""
    if not any(os.environ.get(name) or os.environ.get(name.upper()) for name in PROXIES):
        return
    exceptions = next((os.environ[name] for name in NO_PROXIES if os.environ.get(name)), "")
    if host not in exceptions.split(","):
        exceptions = ",".join(filter(None, [exceptions, host]))
    for name in NO_PROXIES:
        if name != NO_PROXIES[0] or name in os.environ:
            os.environ[name] = exceptions


def _explicit(settings: sections.DistributedConfig) -> _Found | None:
    """The place that fields or environment variables give; None where they give nothing."""
    coordinator = settings.coordinator or os.environ.get(COORDINATOR, "")
    processes = settings.processes or _number(PROCESSES, 0)
    process = settings.process if settings.process >= 0 else _number(PROCESS, -1)
    if not coordinator and not processes and process < 0:
        return None
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 <= process < processes:
        raise DistributedError(
            f"an incomplete place in a job: coordinator {coordinator!r}, process {process} of {processes}; needed are "
            f"distributed.coordinator=HOST:PORT, .processes=N and .process from 0 to N-1, or ${COORDINATOR}, "
            f"${PROCESSES} and ${PROCESS}"
        )
    return _Found(rendezvous.ProcessPlace(coordinator, processes, process), None, detected=False)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    try:
        return int(text) if text else default
    except ValueError as error:
        raise DistributedError(f"${name}: a whole number is needed, not {text!r}") from error


def _detected(timeout: int) -> _Found | None:
    """The place in the cluster that JAX detects; None where it detects none."""
    # JAX offers what it detects to nobody but its own `initialize`, which aborts without a name when a process stays
    # away. The range of versions in setup.py keeps this one private call honest; tests/parallel/test_distributed.py
    # covers it.
    from jax._src.clusters import ClusterEnv

    try:
        coordinator, processes, process, devices = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, timeout
        )
    except (RuntimeError, ValueError, KeyError) as error:
        raise DistributedError(
            f"a cluster is here, but JAX does not find this process's place in it ({error}); set ${COORDINATOR}, "
            f"${PROCESSES} and ${PROCESS}"
        ) from error
    if coordinator is None or processes is None or process is None:
        return None
    return _Found(
        rendezvous.ProcessPlace(coordinator, processes, process), list(devices) if devices else None, detected=True
    )


def in_a_job() -> bool:
    """Says whether this process has joined a job of several."""
    return jax.distributed.is_initialized()


def comparable(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Lists the fields of a configuration that all processes must share.

    Args:
        config: the configuration as nested dicts.
        prefix: of the names.

    Returns:
        The values by dotted name.
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= comparable(value, f"{prefix}{name}.")
        elif not f"{prefix}{name}".startswith(OF_ONE_MACHINE):
            flat[prefix + name] = value
    return flat


def introduction(mesh: Mesh) -> str:
    """Says who this process is: its number, machine and devices, and the mesh it is part of."""
    axes = " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    return (
        f"process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()}: "
        f"{jax.local_device_count()} of {jax.device_count()} devices ({jax.devices()[0].device_kind}), mesh {axes}"
    )


def barrier(name: str) -> None:
    """Waits until all processes are here, for up to a day; returns at once where there is one.

    Args:
        name: tells barriers apart in messages.
    """
    # JAX's public barrier is a collective of the devices, and Gloo gives those up after half a minute. Orbax waits at
    # this one too.
    from jax._src.distributed import global_state

    if global_state.client is not None:
        global_state.client.wait_at_barrier(f"wenlan/{name}/{next(_barriers)}", timeout_in_ms=BARRIER_MILLISECONDS)


def lost_peer(error: BaseException) -> DistributedError | None:
    """Explains an error that tells that another process went away.

    Args:
        error: what was raised.

    Returns:
        An error in a person's terms; None if `error` tells something else.
    """
    if not in_a_job() or not isinstance(error, jax.errors.JaxRuntimeError):
        return None
    signs = ("connection closed by peer", "connection reset", "broken pipe", "gloo", "nccl", "socket closed")
    reason = str(error)
    if not any(sign in reason.lower() for sign in signs):
        return None
    return DistributedError(
        f"process {jax.process_index()} of {jax.process_count()} lost another process of the job: it has died, "
        f"left with an error or hangs, which its own log tells ({reason.splitlines()[0][:200]}). "
        "The newest checkpoint is whole: the same command continues from it"
    )


def leave(status: int) -> int:
    """Ends a process that failed: with the others if they fail too, else alone, as they may wait for it forever.

    Args:
        status: the exit status.

    Returns:
        `status` where the normal way out is open; else the process is gone.
    """
    if not in_a_job():
        return status
    # JAX's shutdown waits minutes for processes that may be stuck in a collective with us.
    together = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    together.start()
    together.join(LEAVE_SECONDS)
    if together.is_alive():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status
