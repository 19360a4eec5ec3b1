"""Chunks of a sweep on many processes or machines, by dask.distributed. Workers write the partitions themselves; only numbers come back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from functional.errors import BadInput, Problem
from sim.explore.extras import needed
from sim.explore.sweep_file import Sweep

IN_FLIGHT = 3
"""Chunks per worker that are handed out at a time: enough that none waits, few enough that a client's memory stays flat."""

CONNECT_S = 10
"""Seconds after which a scheduler is taken not to be there."""

Task = tuple[int, range, str]


def write_part(asked: Sweep, digest: str, boxes: range, path: str) -> None:
    """What a worker does: evaluate some boxes and leave a partition. It keeps the traced graphs of the sweep that it works on."""
    from dask.distributed import get_worker

    from sim.explore.sweep import write_chunk
    from sim.explore.sweep_rows import Evaluator

    worker: Any = get_worker()
    known: str
    evaluator: Any
    known, evaluator = getattr(worker, "rooftile_sweep", ("", None))
    if known != digest:
        evaluator = Evaluator(asked)
        worker.rooftile_sweep = digest, evaluator
    write_chunk(evaluator, boxes, Path(path))


def evaluated(asked: Sweep, tasks: Iterator[Task], workers: int, scheduler: str | None) -> Iterator[int]:
    """Run tasks (chunk, boxes, path of the partition) and yield each chunk when it is on disk; a chunk whose worker dies is run again."""
    needed("distributed", "several workers", "cluster", "--workers" if scheduler is None else "--scheduler")
    from dask.distributed import Client, LocalCluster, as_completed

    digest = asked.digest
    with ExitStack() as stack:
        if scheduler is None:
            cluster: Any = stack.enter_context(LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None))
            client: Any = stack.enter_context(Client(cluster))
        else:
            client = stack.enter_context(_client(Client, scheduler))
        running = as_completed(loop=client.loop)
        chunk_of: dict[str, int] = {}

        def hand_out(count: int) -> None:
            for chunk, boxes, path in itertools.islice(tasks, count):
                future = client.submit(write_part, asked, digest, boxes, path, key=f"rooftile-{digest[:16]}-{chunk}", pure=False, retries=3)
                chunk_of[future.key] = chunk
                running.add(future)

        hand_out(IN_FLIGHT * max(1, len(client.scheduler_info(n_workers=-1)["workers"]), workers))
        for future in running:
            future.result()
            yield chunk_of.pop(future.key)
            hand_out(1)


def _client(kind: Any, scheduler: str) -> Any:
    try:
        return kind(scheduler, timeout=CONNECT_S)
    except (OSError, TimeoutError, ValueError) as error:
        cure = "start one with `dask scheduler`, and give its address, e.g. tcp://10.0.0.1:8786"
        raise BadInput(Problem(f"no scheduler at {scheduler} ({type(error).__name__})", cure, path="--scheduler")) from None
