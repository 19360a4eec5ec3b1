"""A simulator of attention on one core that moves one cycle at a time: DRAM, array and vector unit take their jobs in the order of the
mapping, each as soon as what it needs is there and there is room for what it makes. Only whole durations are simulated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from sim.attention_mapping import AttentionMapping, core_parts, key_tiles

ARRAY = 2, 3
"""Rows and columns of the array."""


class Speeds(NamedTuple):
    """Cycles of the array and of the level beside it per cycle that a product takes by itself; per score of the softmax; per byte of DRAM;
    until DRAM answers; until sums have left the array."""

    array: int
    level: int
    vector: int
    dram: int
    latency: int
    drain: int


class Sides(NamedTuple):
    """Whether queries, keys and values, and outputs pass DRAM."""

    queries: bool
    keys: bool
    output: bool


def own_cycles(tile: str, mapping: AttentionMapping, rows: int, keys: int) -> int:
    """Of a product of rows with a key ("K") or value tile ("V") by itself: folds of the array, each as long as operands stream through it,
    or as its rows take to be filled or to drain."""
    side = mapping.attention.head_dim
    height, width = ARRAY
    n, k = (keys, side) if tile == "K" else (side, keys)
    if mapping.dataflow == "os":
        return -(-rows // height) * -(-n // width) * max(k, height)
    assert mapping.dataflow == "ws"
    return -(-k // height) * -(-n // width) * max(rows, height)


@dataclass
class Room:
    """How many places are free."""

    free: int


@dataclass(eq=False)
class Job:
    """Waits, for each cause in turn, until all of some jobs ended so long ago, and until there are free places, which it takes; what it
    gives back so long after it has ended."""

    resource: str
    cycles: int
    after: list[tuple[str, Job, int]] = field(default_factory=list)
    takes: list[tuple[str, Room]] = field(default_factory=list)
    gives: list[tuple[Room, int]] = field(default_factory=list)
    not_before: int = 0
    works: int = 0
    start: int = -1
    end: int = -1
    refused: frozenset[str] = frozenset()

    def refusal(self, now: int) -> frozenset[str]:
        """For what it cannot begin yet: what jobs before it make, and places."""
        late = now < self.not_before or any(job.end < 0 or job.end + lag > now for _, job, lag in self.after)
        full = not all(room.free for _, room in self.takes)
        return frozenset(name for name, is_so in (("data", late), ("room", full)) if is_so)

    def missing(self, now: int) -> set[str]:
        """Causes for which it cannot begin yet."""
        late = {cause for cause, job, lag in self.after if job.end < 0 or job.end + lag > now}
        full = {cause for cause, room in self.takes if not room.free}
        return late | full | ({"dram"} if now < self.not_before else set())


@dataclass(frozen=True)
class Simulated:
    """Last cycle, the array's stalls, how many cycles it and the vector unit work at the same time; the jobs of each resource, and for what
    each was `refused` a cycle earlier."""

    end: int
    stalls: dict[str, int]
    overlap: int
    jobs: dict[str, list[Job]]


class _Program:
    """Jobs of each resource in the order of the mapping."""

    def __init__(self, mapping: AttentionMapping, speeds: Speeds, sides: Sides) -> None:
        self.mapping, self.speeds, self.sides = mapping, speeds, sides
        self.queues: dict[str, list[Job]] = {"dram": [], "matrix": [], "vector": []}
        places = mapping.score_buffers
        self.asking, self.scores, self.outputs = Room(1), Room(places), Room(1)
        self.tiles = {"K": Room(mapping.buffers), "V": Room(mapping.buffers)}
        self.held: dict[str, Job | None] = {"K": None, "V": None}
        self.whole = mapping.kv_tile >= mapping.attention.kv_len
        chunks = list(self.chunks())
        # S0, V0, S1, V1, ... with one place; S0, S1, V0, S2, V1, ... with two.
        scored: list[Job] = []
        outputs: list[tuple[int, Job]] = []
        for i, chunk in enumerate(chunks):
            scored.append(self.compute(chunk))
            self.store(outputs)
            if i >= places - 1:
                self.weigh(chunks[i - places + 1], scored[i - places + 1], outputs)
                if places == 1:
                    self.store(outputs)
        if places == 2:
            self.store(outputs)
            self.weigh(chunks[-1], scored[-1], outputs)
            self.store(outputs)

    def chunks(self) -> Iterator[Chunk]:
        """Of the core with most scores, the first of them."""
        mapping, attention = self.mapping, self.mapping.attention
        cores = []
        for pairs, queries in core_parts(mapping):
            found = []
            for pair in range(*pairs):
                rows = [(tile, key_tiles(mapping, tile)) for tile in queries]
                for r, (tile, keys) in enumerate(rows):
                    lengths = [each.stop - each.start for each in keys]
                    height = (tile.stop - tile.start) * attention.rows_per_query
                    cut = [[each] for each in lengths] if mapping.online else [lengths]
                    ends = (pair == pairs.start and r == 0, r == 0, r == len(rows) - 1)
                    found += [Chunk(height, each, c == 0, c == len(cut) - 1, *ends[1:]) for c, each in enumerate(cut)]
            cores.append(found)
        yield from max(cores, key=lambda found: sum(each.rows * sum(each.lengths) for each in found))

    def compute(self, chunk: Chunk) -> Job:
        """Products that give scores; the last of them, or what writes its scores to DRAM."""
        head = self.mapping.attention.head_dim
        if chunk.is_first:
            self.query: Job | None = None
            if self.sides.queries:
                self.query = self.add("dram", chunk.rows * head * self.speeds.dram, takes=[("", self.asking)])
        last = None
        for i, keys in enumerate(chunk.lengths):
            tile = self.bring("K", keys, chunk.is_first_row)
            job = self.product("K", chunk.rows, keys)
            job.after = [("dram", each, 0) for each in (tile, self.query) if each is not None]
            if i == 0:
                job.takes.append(("sram_space", self.scores))
            if i == 0 and chunk.is_first and self.query is None:
                job.takes.append(("sram_space", self.asking))
            self.let_go("K", job, chunk)
            last = job if self.mapping.fused else self.passed(chunk.rows * keys, job, self.speeds.drain, is_load=False)
        assert last is not None
        if chunk.is_last and self.mapping.score_buffers == 2:
            last.gives.append((self.asking, 0))
        return last

    def passed(self, scores: int, made: Job, lag: int, is_load: bool) -> Job:
        """Scores, of one byte each, that pass DRAM."""
        return self.add("dram", scores * self.speeds.dram, after=[("", made, lag)], is_load=is_load)

    def weigh(self, chunk: Chunk, scored: Job, outputs: list[tuple[int, Job]]) -> None:
        """Softmax, and the products with the values."""
        scores, lag, probabilities = chunk.rows * sum(chunk.lengths), self.speeds.drain, None
        if not self.mapping.fused:
            scored, lag = self.passed(2 * scores, scored, 0, is_load=True), 0  # for the maxima, and for the exponentials
        soft = self.add("vector", scores * self.speeds.vector, after=[("", scored, lag)])
        if not self.mapping.fused:
            exponentials = self.passed(scores, self.passed(scores, soft, 0, is_load=False), 0, is_load=True)
            probabilities = self.passed(scores, exponentials, 0, is_load=False)
        last = None
        for i, keys in enumerate(chunk.lengths):
            tiles = [self.bring("V", keys, chunk.is_first_row)]
            if probabilities is not None:
                tiles.append(self.passed(chunk.rows * keys, probabilities, 0, is_load=True))
            job = self.product("V", chunk.rows, keys)
            job.after = [("vector", soft, 0), *(("dram", each, 0) for each in tiles if each is not None)]
            if i == 0 and chunk.is_last and self.mapping.score_buffers == 2:
                job.takes.append(("sram_space", self.outputs))
            self.let_go("V", job, chunk)
            last = job
        assert last is not None
        last.gives.append((self.scores, 0))
        if chunk.is_last:
            outputs.append((chunk.rows, last))

    def store(self, outputs: list[tuple[int, Job]]) -> None:
        """Outputs that are waiting leave the place that they have taken."""
        place = self.asking if self.mapping.score_buffers == 1 else self.outputs
        for rows, made in outputs:
            if self.sides.output:
                size = rows * self.mapping.attention.head_dim * self.speeds.dram
                self.add("dram", size, after=[("", made, self.speeds.drain)], gives=[(place, 0)], is_load=False)
            else:
                made.gives.append((place, self.speeds.drain))
        outputs.clear()

    def bring(self, what: str, keys: int, is_first_row: bool) -> Job | None:
        """A key or value tile, unless it is on the chip; nothing where they all are."""
        if self.sides.keys and (is_first_row or not self.whole):
            size = keys * self.mapping.attention.head_dim * self.speeds.dram
            self.held[what] = self.add("dram", size, takes=[("", self.tiles[what])])
        return self.held[what]

    def let_go(self, what: str, job: Job, chunk: Chunk) -> None:
        """After the last product that takes the tile."""
        if self.sides.keys and (chunk.is_last_row or not self.whole):
            job.gives.append((self.tiles[what], 0))

    def product(self, tile: str, rows: int, keys: int) -> Job:
        own = own_cycles(tile, self.mapping, rows, keys)
        return self.add("matrix", max(self.speeds.array, self.speeds.level) * own, works=self.speeds.array * own)

    def add(
        self,
        resource: str,
        cycles: int,
        after: list[tuple[str, Job, int]] | None = None,
        takes: list[tuple[str, Room]] | None = None,
        gives: list[tuple[Room, int]] | None = None,
        works: int = 0,
        is_load: bool = True,
    ) -> Job:
        not_before = self.speeds.latency if resource == "dram" and is_load else 0
        job = Job(resource, cycles, after or [], takes or [], gives or [], not_before, works)
        self.queues[resource].append(job)
        return job


class Chunk(NamedTuple):
    """Scores that are computed together, and what they are the first and the last of."""

    rows: int
    lengths: list[int]
    is_first: bool
    is_last: bool
    is_first_row: bool
    is_last_row: bool


FIRST = {"K": ("dram", "sram_space"), "V": ("vector", "sram_space", "dram")}
"""Of what ends in the same cycle, what a product is said to have waited for."""


def simulate(mapping: AttentionMapping, speeds: Speeds, sides: Sides) -> Simulated:
    """A schedule, moved on cycle by cycle."""
    program = _Program(mapping, speeds, sides)
    queues = {name: list(jobs) for name, jobs in program.queues.items()}
    free, stalls = dict.fromkeys(queues, 0), Counter[str]()
    due: list[tuple[int, Room]] = []
    missing: set[str] = set()
    now = 0
    while any(queues.values()):
        begun = True
        while begun:
            begun = False
            for at, room in [each for each in due if each[0] <= now]:
                due.remove((at, room))
                room.free += 1
            for name, queue in queues.items():
                if not queue or free[name] > now or queue[0].missing(now):
                    continue
                job, begun = queue.pop(0), True
                job.start, job.end = now, now + job.cycles
                for _, room in job.takes:
                    room.free -= 1
                due += [(job.end + lag, room) for room, lag in job.gives]
                if name == "matrix":
                    if now > free[name]:
                        kind = "V" if any(cause == "vector" for cause, _, _ in job.after) else "K"
                        stalls[next(cause for cause in FIRST[kind] if cause in missing)] += now - free[name]
                    stalls["dependency"] += job.cycles - job.works
                free[name] = job.end
        missing = queues["matrix"][0].missing(now) if queues["matrix"] else set()
        for name, queue in queues.items():
            if queue:
                queue[0].refused = queue[0].refusal(now) | ({"busy"} if free[name] > now else set())
        now += 1
        assert now < 10**5, "nothing begins any more"
    drained = free["matrix"] + speeds.drain
    assert free["vector"] <= drained, "softmax ends before the product that needs it"
    end = max(drained, free["dram"])
    stalls["array"] += speeds.drain
    stalls["dram"] += end - drained
    worked = [{now for job in program.queues[name] for now in range(job.start, job.end)} for name in ("matrix", "vector")]
    return Simulated(end, dict(stalls), len(worked[0] & worked[1]), program.queues)
