"""The roll call between threads that stand for processes, over real sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Sequence

import pytest

from wenlan_jax.parallel import rendezvous
from wenlan_jax.parallel.rendezvous import ProcessPlace, RendezvousError


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def call(places: Sequence[ProcessPlace], values: Sequence[dict[str, object]], timeout: float = 10) -> list[str]:
    """What each place's roll call ends with: '' if all is well, else its error."""
    ends = ["no end"] * len(places)

    def attend(index: int) -> None:
        try:
            rendezvous.hold(places[index], values[index], timeout)
            ends[index] = ""
        except RendezvousError as error:
            ends[index] = str(error)

    threads = [threading.Thread(target=attend, args=(index,)) for index in range(len(places))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return ends


def places(processes: int, present: Sequence[int]) -> list[ProcessPlace]:
    coordinator = f"localhost:{free_port()}"
    return [ProcessPlace(coordinator, processes, number) for number in present]


def test_all_present_and_alike() -> None:
    came = places(4, range(4))
    assert call(came, [{"seed": 1, "ks": (1, 5)}] * 4) == [""] * 4
    assert call(came, [{"seed": 1}] * 4) == [""] * 4  # the port is free again at once


def test_the_missing_are_named_to_all_within_the_timeout() -> None:
    began = time.monotonic()
    ends = call(places(8, [0, 2]), [{}] * 2, timeout=1)
    assert time.monotonic() - began < 10
    for end in ends:
        assert "processes 1, 3-7 of 8 did not come" in end
        assert "2 came: 0 on " in end
        assert "distributed.timeout" in end


def test_differences_are_named_by_field_and_process() -> None:
    ends = call(places(3, range(3)), [{"seed": 1, "steps": 5}, {"seed": 1, "steps": 5}, {"seed": 2, "steps": 5}])
    for end in ends:
        assert "seed: 1 in process 0, 2 in process 2 on " in end
        assert "steps" not in end


def test_a_coordinator_that_is_away() -> None:
    (end,) = call(places(2, [1]), [{}], timeout=0.5)
    assert "process 1 of 2" in end
    assert "did not reach process 0 at localhost:" in end


def test_two_processes_of_one_number() -> None:
    ends = call(places(3, [0, 1, 1]), [{}] * 3, timeout=2)
    assert "two processes are number 1" in ends[0]


def test_processes_of_jobs_of_other_sizes() -> None:
    one, two = places(2, [0, 1])
    ends = call([one, ProcessPlace(two.coordinator, 3, 1)], [{}] * 2)
    assert all("was started as one of 3, process 0 as one of 2" in end for end in ends)


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("", 0)) as server:
        place = ProcessPlace(f"localhost:{server.getsockname()[1]}", 2, 0)
        with pytest.raises(RendezvousError, match="cannot listen at port"):
            rendezvous.hold(place, {}, 1)


def test_strangers_are_ignored() -> None:
    first, second = places(2, [0, 1])
    sent = threading.Event()

    def knock() -> None:
        """Says what is not JSON, then what is JSON and means nothing."""
        for message in (b"GET / HTTP/1.1\r\n\r\n", json.dumps([1]).encode() + b"\n"):
            with rendezvous._reach(first, 10) as connection:
                connection.sendall(message)
        sent.set()

    ends: list[str] = []
    president = threading.Thread(target=lambda: ends.extend(call([first], [{}])))
    president.start()
    knock()
    assert sent.wait(10)
    assert call([second], [{}]) == [""]
    president.join(60)
    assert ends == [""]


def test_a_process_alone_calls_nobody() -> None:
    rendezvous.hold(ProcessPlace("nowhere.invalid:1", 1, 0), {}, 0.1)
