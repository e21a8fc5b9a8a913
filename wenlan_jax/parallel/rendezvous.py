"""The roll call before a job of several processes starts: who is there, and do all want the same?

JAX aborts the process when a peer stays away, without naming it. So the processes first meet over plain TCP at the
coordinator's address: each tells process 0 its number and what it was started with, process 0 answers all of them
with one verdict, and only then does JAX take over the same port. One line of JSON each way; the standard library only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from wenlan_jax.util.errors import WenlanError

RETRY_SECONDS = 0.2
HELLO_SECONDS = 5.0
"""A connection that says nothing for so long is no process of ours."""

LONGEST_LINE = 2**20


class RendezvousError(WenlanError, RuntimeError):
    """Processes of the job that are missing, double, or were started differently; the message names them."""


@dataclasses.dataclass(frozen=True)
class ProcessPlace:
    """This process's place in a job.

    Attributes:
        coordinator: where the processes meet, host:port.
        processes: their number.
        process: the number of this one, from 0.
    """

    coordinator: str
    processes: int
    process: int

    @property
    def host(self) -> str:
        """The coordinator's host."""
        return self.coordinator.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The coordinator's port."""
        return int(self.coordinator.rpartition(":")[2])


@dataclasses.dataclass
class _Present:
    """A process that has answered: where it runs and what it was started with."""

    where: str
    started_with: dict[str, Any]
    connection: socket.socket | None


def hold(place: ProcessPlace, started_with: Mapping[str, Any], timeout: float) -> None:
    """Waits until all processes are there, and checks that they were started with the same values.

    Args:
        place: this process's place in the job.
        started_with: what must be equal everywhere, by name, as JSON values.
        timeout: seconds.

    Raises:
        RollCallError: in every process that could be reached, naming who is missing or what differs.
    """
    if place.processes == 1:
        return
    values = json.loads(json.dumps(dict(started_with)))
    if place.process == 0:
        _preside(place, values, timeout)
    else:
        _attend(place, values, timeout)


def _where() -> str:
    return f"{socket.gethostname()}, pid {os.getpid()}"


def _preside(place: ProcessPlace, values: dict[str, Any], timeout: float) -> None:
    present = {0: _Present(_where(), values, None)}
    try:
        server = _listen(place)
    except OSError as error:
        raise RendezvousError(
            f"process 0 of {place.processes} cannot listen at port {place.port} ({error.strerror or error}); "
            "another job may hold it: choose another port for distributed.coordinator or $WENLAN_COORDINATOR"
        ) from error
    with server, contextlib.ExitStack() as connections:
        fault = _gather(server, place, present, connections, time.monotonic() + timeout)
        verdict = fault or _missing(place, present, timeout) or _differences(present)
        for other in present.values():
            if other.connection is not None:
                _dismiss(other.connection, verdict)
    if verdict:
        raise RendezvousError(verdict)


def _listen(place: ProcessPlace) -> socket.socket:
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # a container may have no IPv6 although its kernel knows it
            return socket.create_server(
                ("", place.port), family=socket.AF_INET6, backlog=place.processes, dualstack_ipv6=True
            )
    return socket.create_server(("", place.port), backlog=place.processes)


def _gather(
    server: socket.socket,
    place: ProcessPlace,
    present: dict[int, _Present],
    connections: contextlib.ExitStack,
    deadline: float,
) -> str:
    """Fills `present` until all are there or the time is up; returns a fault that needs no more waiting, or ''."""
    while len(present) < place.processes and (left := deadline - time.monotonic()) > 0:
        server.settimeout(left)
        try:
            connection, address = server.accept()
        except TimeoutError:
            break
        connections.enter_context(connection)
        connection.settimeout(min(HELLO_SECONDS, max(left, RETRY_SECONDS)))
        hello = _read(connection)
        if hello is None or not {"process", "processes", "where", "started_with"} <= hello.keys():
            continue  # a port scan or a health check
        number, where = hello["process"], f"{hello['where']} ({address[0]})"
        fault = _misplaced(place, present, number, hello["processes"], where)
        if fault:
            _dismiss(connection, fault)
            return fault
        present[number] = _Present(where, hello["started_with"], connection)
    return ""


def _misplaced(place: ProcessPlace, present: Mapping[int, _Present], number: int, processes: int, where: str) -> str:
    if processes != place.processes:
        return (
            f"process {number} on {where} was started as one of {processes}, process 0 as one of {place.processes}; "
            "start all with the same number of processes"
        )
    if number in present:
        return f"two processes are number {number}: {present[number].where} and {where}; give each its own number"
    return ""


def _missing(place: ProcessPlace, present: Mapping[int, _Present], timeout: float) -> str:
    absent = [number for number in range(place.processes) if number not in present]
    if not absent:
        return ""
    noun = "process" if len(absent) == 1 else "processes"
    there = "; ".join(f"{number} on {one.where}" for number, one in sorted(present.items())[:8])
    return (
        f"{noun} {_ranges(absent)} of {place.processes} did not come to {place.coordinator} within {timeout:g} s. "
        f"{len(present)} came: {there}{' ...' if len(present) > 8 else ''}. Look at the logs of the missing, "
        "or wait longer with --config.distributed.timeout"
    )


def _ranges(numbers: list[int]) -> str:
    """Sorted numbers with runs drawn together: `1, 4-7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _differences(present: Mapping[int, _Present]) -> str:
    """Which processes were started with other values than process 0, by name; '' if none."""
    first, lines = present[0].started_with, []
    for number, other in sorted(present.items()):
        names = sorted(first.keys() | other.started_with.keys())
        for name in names:
            ours, theirs = first.get(name), other.started_with.get(name)
            if ours != theirs:
                lines.append(f"{name}: {ours!r} in process 0, {theirs!r} in process {number} on {other.where}")
    if not lines:
        return ""
    more = f"\n  and {len(lines) - 20} more" if len(lines) > 20 else ""
    return "the processes of this job were started differently:\n  " + "\n  ".join(lines[:20]) + more


def _attend(place: ProcessPlace, values: dict[str, Any], timeout: float) -> None:
    hello = {
        "process": place.process,
        "processes": place.processes,
        "where": _where(),
        "started_with": values,
    }
    with _reach(place, timeout) as connection:
        # Process 0 may have come as late as it may, and waits as long again for the others.
        connection.settimeout(2 * timeout + HELLO_SECONDS)
        with contextlib.suppress(OSError):
            connection.sendall(_line(hello))
        answer = _read(connection)
    if answer is None:
        raise RendezvousError(
            f"process {place.process} of {place.processes}: process 0 at {place.coordinator} went away before the "
            "job started; look at its log"
        )
    if answer["verdict"]:
        raise RendezvousError(answer["verdict"])


def _reach(place: ProcessPlace, timeout: float) -> socket.socket:
    deadline = time.monotonic() + timeout
    while True:
        try:
            return socket.create_connection(
                (place.host, place.port), timeout=max(deadline - time.monotonic(), RETRY_SECONDS)
            )
        except OSError as error:
            if time.monotonic() >= deadline:
                raise RendezvousError(
                    f"process {place.process} of {place.processes} on {socket.gethostname()} did not reach process 0 "
                    f"at {place.coordinator} within {timeout:g} s ({error.strerror or error}). Is process 0 running, "
                    f"does {place.host} name its machine, and is port {place.port} open between them?"
                ) from error
        time.sleep(RETRY_SECONDS)


def _dismiss(connection: socket.socket, verdict: str) -> None:
    """Sends the verdict and waits for the other side to close, so that the port is free at once for JAX."""
    with contextlib.suppress(OSError):
        connection.settimeout(HELLO_SECONDS)
        connection.sendall(_line({"verdict": verdict}))
        connection.recv(1)


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _read(connection: socket.socket) -> dict[str, Any] | None:
    """One line of JSON, or None if the other side closed, was silent, or speaks something else."""
    try:
        with connection.makefile("rb") as lines:
            message = json.loads(lines.readline(LONGEST_LINE))
    except (OSError, ValueError):
        return None
    return message if isinstance(message, dict) else None
