"""Plays one mapped GEMM on the ports and units of a chip, tile by tile: one of the schedules at tile granularity of `sim.mapper.cost`.

The first core is played: its parts are the largest. What other cores ask of shared levels at the same step lengthens its own transfers, in
the proportion of the bytes charged to the first core's, so that shared levels are as busy as charged.

**Order**, fixed by the mapping alone. Before a step: sums that must make room now are stored, tiles that could not come earlier are
loaded, sums that continue are read back, outer levels first. Then the step. After it, one slice of the next tile of each operand and
level (as many slices as the tile in use has steps), and one slice of the sums that gave way last (from the second step on, for the array
must drain first). With one buffer nothing comes early. Slices keep a long transfer for later from blocking a short one for now.

**Times.** A load waits for room (until the tile `buffers` before it was last used) and for its tile to be whole where it comes from, plus
that level's latency. A step waits for its tiles, for room for its sums and for the ports that the array reads and writes. It takes the
array for its tile cycles, or longer if a port needs longer, and its sums are complete when the array has drained. Element-wise work of the
group takes each slice of a finished tile before that is stored; what it moves besides goes with it. Everything is in cycles of the clock,
not rounded.

**Stalls** say what the array waited for: `dram` a tile from DRAM, or the last store to it; `sram_space` room; `array` its own drain at the
end; `vector` element-wise work; `dependency` ports on the chip and tiles from levels on the chip, unless these waited in turn for
something else, which is then the cause. Busy time and stalls sum to the end.

Where trips of a loop repeat (same shapes, same order: `sim.engines.nest`) and the state after one is the one before it, moved in time, the
repeats are not played but added up: max and + commute with a common shift, so the result is the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from functional.errors import Problem, ScenarioError
from hwmodels.chip import Chip, Role
from sim.engines.nest import Nest, Walk, nest_of
from sim.engines.played import NOTHING, Ahead, Besides, GemmOps, Played
from sim.engines.ports import Port, Ports, Unit, Wait, Window, later, move
from sim.engines.repeat import Books, State
from sim.intervals import CAUSES, Log
from sim.mapper import GemmCost, array
from sim.mapper.problem import ROLE_AXES, Setting, setting_of
from sim.mapping import GemmMapping


class Abandoned(Exception):
    """A play that goes beyond what it was given."""


LARGEST_PLAY = 2**25
"""Tiles of one GEMM that are played."""


class Link:
    """Transfers of one role between two neighbouring holders: the stays (*visits*) of tiles in the inner one, and where the play of them
    stands."""

    def __init__(self, role: Role, depth: int, nest: Nest, ports: Ports, setting: Setting, above: Link | None) -> None:
        self.role, self.above = role, above
        outer, inner = setting.holders[role][depth : depth + 2]
        self.outer: Port = ports.of_level[outer.level.name]
        self.inner: Port = ports.of_level[inner.level.name]
        self.from_dram = outer.stage < 0
        self.of_all = setting.shared(inner)
        self.burst_bits = 8 * outer.level.burst_bytes if self.from_dram else 0
        self.double = bool(inner.level.double_buffered)
        self.stays = stays = nest.stays[role][depth]
        self.elements: list[int] = stays.elements.tolist()
        self.steps: list[int] = stays.steps.tolist()
        self.last: list[bool] = stays.last.tolist()
        self.ago: list[int] = stays.ago.tolist()
        self.turns: list[bool] = nest.turns[role][depth].tolist()
        self.begins: list[bool] = stays.begins.tolist()
        self.stay_of_row: list[int] = stays.of_row.tolist()
        self.early: dict[int, float] = {}  # which part of a visit's tile came before the group began
        self.at = -1
        # Operands: when the tile in use is whole, when it and the one before it were last used, when the next one is whole.
        # Sums: when there is room, when those of the tile in use are complete, those of the one before; ends of the last three stores.
        self.times = [0.0] * 8
        self.causes = ["dram", "dram"]

    def bytes_of(self, elements: Any, bits: Any, slices: int) -> tuple[Any, Any]:
        """Bytes that one slice of a tile is on the outer and on the inner side."""
        total_bits = elements * bits
        if self.burst_bits:
            return -(-total_bits // self.burst_bits) * self.burst_bits / 8 / slices, total_bits / 8 / slices
        return total_bits / 8 / slices, total_bits / 8 / slices


READY, USED, USED_BEFORE, NEXT = 0, 1, 2, 3
ROOM, SUMS, SUMS_BEFORE, STORED, STORED_1, STORED_2 = 0, 1, 2, 3, 4, 5


class Step(NamedTuple):
    """What the array does for a piece: cycles, drain, and how long it takes which ports."""

    cycles: float
    extra: float
    drain: float
    folds_drain: float
    takes: tuple[tuple[Unit, float], ...]
    moves: tuple[tuple[Port, float, float], ...]
    longest: float
    macs: int


class Player:
    """One GEMM on its way through a chip."""

    def __init__(self, mapping: GemmMapping, setting: Setting, ports: Ports, besides: Besides, log: Log | None, ops: GemmOps) -> None:
        self.mapping, self.setting, self.ports, self.besides = mapping, setting, ports, besides
        self.nest = nest_of(mapping, tuple([(role, tuple([place.stage for place in held[1:]])) for role, held in setting.holders.items()]))
        self.log, self.ops = log, ops
        self.bits = {"activations": mapping.gemm.a_bits, "weights": mapping.gemm.w_bits}
        roles: tuple[Role, Role] = ("activations", "weights")
        self.loads: list[list[Link]] = [self._links(role) for role in roles]
        self.sums = self._links("psums")
        self.links = *self.loads[0], *self.loads[1], *self.sums
        self.nearest = [links[-1] for links in (*self.loads, self.sums) if links]
        self.waits = {cause: Wait() for cause in CAUSES}
        self.tail = ports.tail(setting.chip)
        self.books = Books(ports, self.waits, self.tail)
        self.ahead: tuple[Ahead, ...] = ()
        self.laid = array.laid(setting, mapping.dataflow, mapping.array_axis)
        self.pieces: dict[tuple[int, int, int, bool], Step] = {}
        self.moves: dict[tuple[int, int, int, bool], tuple[tuple[Port, float, float], ...]] = {}
        self.drained = 0.0
        self.latest, self.most_steps, self.array_cycles = math.inf, math.inf, 0  # see `played_within`
        self.steps = 0
        self.issued_share = 1.0  # MACs that the chip issues per useful one of the played core
        away = self.sums[-1].stays  # of one core, or, where cores share what holds their sums, of all
        self.finished_sums = float((away.elements * away.often * away.last).sum())

    def _links(self, role: Role) -> list[Link]:
        links: list[Link] = []
        for depth in range(len(self.setting.holders[role]) - 1):
            links.append(Link(role, depth, self.nest, self.ports, self.setting, links[-1] if links else None))
        return links

    # --- transfers ---

    def _wait(self, cause: str, start: float, end: float) -> None:
        """The array waits."""
        if end > start and self.waits[cause].add(start, end) and self.log is not None:
            self.log.add("matrix", "stall", start, end, cause=cause, op=self.ops.product)

    def _inwards(self, link: Link, ready: float, outside: float, inside: float) -> float:
        """A tile, or a slice of one, comes in from the outer level; when all of it is there."""
        read_cycles, write_cycles = link.outer.reads(outside, link.of_all), link.inner.writes(inside, link.of_all)
        start, end = move(link.outer.reader, link.inner.writer, ready, read_cycles, write_cycles)
        if link.from_dram:
            self.tail.mark()
        if self.log is not None:
            shares = (1.0, 1.0) if link.of_all else (link.outer.read_share, link.inner.write_share)
            whose, op = link.role, self.ops.product
            self.log.add(link.outer.name, "read", start, start + read_cycles, size_bytes=outside * shares[0], role=whose, op=op)
            self.log.add(link.inner.name, "write", end - write_cycles, end, size_bytes=inside * shares[1], role=whose, op=op)
        return end

    def _outwards(self, link: Link, ready: float, outside: float, inside: float) -> float:
        """A tile, or a slice of one, goes out to the outer level; when all of it is there."""
        read_cycles, write_cycles = link.inner.reads(inside, link.of_all), link.outer.writes(outside, link.of_all)
        start, end = move(link.inner.reader, link.outer.writer, ready, read_cycles, write_cycles)
        if self.log is not None:
            shares = (1.0, 1.0) if link.of_all else (link.inner.read_share, link.outer.write_share)
            whose, op = link.role, self.ops.product
            self.log.add(link.inner.name, "read", start, start + read_cycles, size_bytes=inside * shares[0], role=whose, op=op)
            self.log.add(link.outer.name, "write", end - write_cycles, end, size_bytes=outside * shares[1], role=whose, op=op)
        return end

    def _load(self, link: Link, visit: int, slices: int, room: float, above: Link | None) -> None:
        """A slice of an operand's tile, or all of it."""
        outside, inside = link.bytes_of(link.elements[visit], self.bits[link.role], slices)
        if visit in link.early:
            outside, inside = outside * (1.0 - link.early[visit]), inside * (1.0 - link.early[visit])
            if not outside:
                link.times[NEXT] = room
                return
        whole = link.outer.latency if above is None else above.times[READY] + link.outer.latency
        source = link.outer.reader
        if later(room, max(whole, source.free)):
            cause = "sram_space"
        elif link.from_dram:
            cause = "dram"
        else:  # what the tile around waited for, if this one waited for it
            cause = above.causes[0] if above is not None and not later(source.free, above.times[READY]) else "dependency"
        end = self._inwards(link, max(room, whole), outside, inside)
        if above is not None:
            above.times[USED] = max(above.times[USED], end)
        link.times[NEXT] = end
        link.causes[1] = cause

    def _turn_operand(self, link: Link, row: int) -> None:
        """The next tile comes into use; what of it could not come earlier is loaded now."""
        times = link.times
        visit = link.at = link.stay_of_row[row]
        if visit == 0 or not link.double or link.turns[visit]:
            room = times[USED_BEFORE if link.double else USED] if visit else 0.0
            self._load(link, visit, 1, room, link.above)
        times[USED_BEFORE], times[USED], times[READY] = times[USED], 0.0, times[NEXT]
        link.causes[0] = link.causes[1]

    def _ahead(self, link: Link) -> None:
        """A slice of the tile after the one in use."""
        visit = link.at + 1
        if link.double and visit < len(link.steps) and not link.turns[visit]:
            self._load(link, visit, link.steps[link.at], link.times[USED_BEFORE], link.above)

    def _finish(self, link: Link, visit: int, slices: int, sums: float) -> float:
        """Element-wise work on a slice of a finished tile, and what it moves besides; when both are done."""
        share = link.elements[visit] / self.finished_sums / slices
        return self._beside(sums, share)

    def _beside(self, ready: float, share: float) -> float:
        done = ready
        if self.besides.vector:
            vector = self.ports.vector
            start = vector.earliest(ready)
            done = vector.issue(start, self.besides.vector * share)
            if self.log is not None:
                self.log.add("vector", "compute", start, done, op=self.ops.elementwise)
        read, written = self.besides.dram_bytes
        for name, of_ports in self.besides.levels.items():
            port = self.ports.of_level[name]
            sides = [(port.reader, "read", read), (port.writer, "write", written)]
            if port.writer is port.reader:
                sides = [(port.reader, "move", read + written)]
            for (unit, what, size_bytes), cycles in zip(sides, of_ports, strict=True):
                if cycles:
                    start = unit.earliest(ready)
                    end = unit.issue(start, cycles * share)
                    done = max(done, end)
                    if self.log is not None:
                        in_dram = size_bytes * share if name == self.setting.chip.dram.name else 0.0
                        self.log.add(name, what, start, end, size_bytes=in_dram, op=self.ops.elementwise)
        return done

    def _store(self, link: Link, visit: int, slices: int) -> None:
        """A slice of the sums of a visit that is over, or all of them."""
        times, gemm = link.times, self.mapping.gemm
        finished = link.last[visit]
        if finished and link is self.sums[-1]:
            times[SUMS_BEFORE] = self._finish(link, visit, slices, times[SUMS_BEFORE])
        outside, inside = link.bytes_of(link.elements[visit], gemm.out_bits if finished else gemm.acc_bits, slices)
        if finished and link.from_dram and not gemm.out_in_dram:
            outside = 0.0
        ready = times[SUMS_BEFORE]
        if link.above is not None:
            ready = max(ready, link.above.times[ROOM])
        end = self._outwards(link, ready, outside, inside)
        times[STORED] = end
        if link.above is not None:
            link.above.times[SUMS] = max(link.above.times[SUMS], end)

    def _give_way(self, link: Link, is_at_once: bool) -> None:
        """The sums in use are over: those before them are away by now, and so are these if they go at once."""
        times = link.times
        times[STORED_2], times[STORED_1] = times[STORED_1], times[STORED]
        times[SUMS_BEFORE], times[SUMS] = times[SUMS], 0.0
        if is_at_once:
            self._store(link, link.at, 1)

    def _at_once(self, link: Link, visit: int) -> bool:
        """Whether the sums before a visit are stored when it begins: with one buffer, or where the tile around ends."""
        return not link.double or link.turns[visit]

    def _turn_sums(self, link: Link, row: int) -> None:
        """The next tile of sums comes into use, read back if it continues."""
        times = link.times
        visit = link.at = link.stay_of_row[row]
        room = times[STORED_1] if link.double else times[STORED]
        link.causes[0] = "sram_space"
        ago = link.ago[visit]
        if ago:
            # The store of the visit before the last is the one before `STORED_1` if the last one has been stored at once.
            whole = times[STORED if self._at_once(link, visit) and ago == 1 else STORED_1 if ago <= 2 else STORED_2]
            if link.above is not None:
                whole = max(whole, link.above.times[ROOM])
            outside, inside = link.bytes_of(link.elements[visit], self.mapping.gemm.acc_bits, 1)
            ready = max(room, whole + link.outer.latency)
            if later(max(link.outer.reader.free, whole + link.outer.latency), room):
                link.causes[0] = "dram" if link.from_dram else "dependency"
            room = self._inwards(link, ready, outside, inside)
        times[ROOM] = room

    # --- steps ---

    def _step_of(self, row: int) -> Step:
        """What the array does at a step, worked out once for alike pieces."""
        key = self.nest.pieces[row]
        if key not in self.pieces:
            self.pieces[key] = self._work(*key)
        return self.pieces[key]

    def _moves(self, m: int, n: int, k: int, continues: bool) -> tuple[tuple[Port, float, float], ...]:
        """Bytes (read, written) that the array exchanges with each port for a piece, worked out once for alike ones."""
        key = m, n, k, continues
        if key not in self.moves:
            gemm, charges = self.mapping.gemm, self.laid.charge([array.single_piece(extent) for extent in (m, n, k)])
            counts = self.laid.accesses(dict.fromkeys(ROLE_AXES, charges))
            innermost = {role: self.ports.of_level[holders[-1].level.name] for role, holders in self.setting.holders.items()}
            psums = (float(counts.psum_reads) + m * n * continues) * gemm.acc_bits / 8
            self.moves[key] = (
                (innermost["activations"], float(counts.a_reads) * gemm.a_bits / 8, 0.0),
                (innermost["weights"], float(counts.w_reads) * gemm.w_bits / 8, 0.0),
                (innermost["psums"], psums, 0.0),
                (innermost["psums"], 0.0, float(counts.psum_writes) * gemm.acc_bits / 8),
            )
        return self.moves[key]

    def _work(self, m: int, n: int, k: int, continues: bool) -> Step:
        setting, mapping = self.setting, self.mapping
        piece = [array.single_piece(extent) for extent in (m, n, k)]
        used = self.laid.use(piece, self.laid.charge(piece), (m, n, k))
        takes: dict[int, tuple[Unit, float]] = {}
        moves = self._moves(m, n, k, continues)
        for port, read, write in moves:
            out, into = read * port.read_cycles_per_byte * port.read_share, write * port.write_cycles_per_byte * port.write_share
            for unit, cycles in ((port.reader, out), (port.writer, into)):
                if cycles:
                    takes[id(unit)] = unit, takes.get(id(unit), (unit, 0.0))[1] + cycles
        systolic = setting.chip.matrix.kind == "systolic"
        folds_drain = 0.0
        if systolic and mapping.dataflow == "os":
            folds_drain = float(used.cycles) / float(array.interval_cycles(setting, "os", k)) * setting.chip.matrix.rows
        drain = float(array.drain_cycles(setting, mapping.dataflow))
        longest = max((cycles for _, cycles in takes.values()), default=0.0)
        cycles, extra = float(used.cycles), float(used.extra_cycles)
        return Step(cycles, extra, drain, folds_drain, tuple(takes.values()), moves, longest, m * n * k)

    def _step(self, row: int) -> None:
        step = self._step_of(row)
        matrix = self.ports.matrix
        free = start = latest = matrix.free
        cause = "dependency"
        for link in self.nearest:
            ready = link.times[READY]
            if ready > latest:
                latest = ready
                if later(ready, start):
                    start, cause = ready, link.causes[0]
        for unit, _ in step.takes:
            if unit.free > latest:
                latest = unit.free
                if later(latest, start):
                    start, cause = latest, "dependency"
        start = latest
        self._wait(cause, free, start)
        worked = matrix.issue(start, step.cycles)
        for unit, cycles in step.takes:
            unit.issue(start, cycles)
        for port, read, written in step.moves:
            port.read_bytes += read
            port.written_bytes += written
        end = max(worked, start + step.longest)
        if end > worked:
            matrix.hold(end)
            self._wait("dependency", worked, end)
        self.drained = max(end + step.extra, self.drained + step.folds_drain, start + step.longest + step.drain)
        if self.log is not None:
            self._log_step(self.log, step, start, worked)
        for links in self.loads:
            if links:
                links[-1].times[USED] = end
        if self.sums:
            self.sums[-1].times[SUMS] = self.drained

    def _log_step(self, log: Log, step: Step, start: float, worked: float) -> None:
        """The array, and the ports that it takes one tile after the other."""
        log.add("matrix", "compute", start, worked, macs=step.macs * self.issued_share, op=self.ops.product)
        taken: dict[int, float] = {}
        for port, read, written in step.moves:
            out, into = port.read_cycles_per_byte * port.read_share, port.write_cycles_per_byte * port.write_share
            sides = (("read", port.reader, read, out, port.read_share), ("write", port.writer, written, into, port.write_share))
            for what, unit, size_bytes, cycles_per_byte, share in sides:
                if size_bytes:
                    begin = taken.get(id(unit), start)
                    taken[id(unit)] = begin + size_bytes * cycles_per_byte
                    log.add(port.name, what, begin, taken[id(unit)], size_bytes=size_bytes * share, op=self.ops.product)

    def _switch(self, row: int) -> None:
        """Everything before a step."""
        for link in reversed(self.sums):
            if link.at >= 0 and link.begins[row]:
                self._give_way(link, self._at_once(link, link.stay_of_row[row]))
        for links in self.loads:
            for link in links:
                if link.begins[row]:
                    self._turn_operand(link, row)
        for link in self.sums:
            if link.begins[row]:
                self._turn_sums(link, row)

    def _after(self, row: int) -> None:
        """Everything after a step."""
        for links in self.loads:
            for link in links:
                self._ahead(link)
        for link in reversed(self.sums):
            if link.at < 1 or self._at_once(link, link.at):
                continue
            steps = link.steps[link.at]
            if steps == 1 or not link.begins[row]:
                self._store(link, link.at - 1, max(steps - 1, 1))

    # --- before the start ---

    def fetch_ahead(self, windows: Sequence[Window]) -> None:
        """Let the first weights come in windows before the start: of the tile that is used first, and then of the one after it if there are
        two buffers, as much as the ports have time for and the groups of those windows leave room for."""
        link = self.loads[1][0]
        visits = range(min(2 if link.double else 1, len(link.elements)))
        sizes = [link.bytes_of(link.elements[visit], self.bits["weights"], 1) for visit in visits]
        shares = (1.0, 1.0) if link.of_all else (link.outer.read_share, link.inner.write_share)
        outer, inner = link.outer.read_cycles_per_byte * shares[0], link.inner.write_cycles_per_byte * shares[1]
        # Both ports are taken for as long as the slower one needs; bytes that fill up a burst take no room.
        cycles = max(max(outside * outer, inside * inner) / inside for outside, inside in sizes)
        held = 0.0
        for window in windows:
            held = min(held + window.idle / cycles, window.room_bytes)
        held = min(held, sum(inside for _, inside in sizes))
        if held <= 0.0:
            return
        came_bytes = 0.0
        for visit, (outside, inside) in zip(visits, sizes, strict=True):
            link.early[visit] = min(max(held, 0.0) / inside, 1.0)
            came_bytes += outside * link.early[visit]
            held -= inside
        in_bytes = sum(inside * link.early[visit] for visit, (_, inside) in zip(visits, sizes, strict=True))
        begin = -sum(window.span for window in windows)
        self.ahead = (
            Ahead(link.outer.name, "read", begin, came_bytes * outer, came_bytes * shares[0]),
            Ahead(link.inner.name, "write", begin, in_bytes * inner, in_bytes * shares[1]),
        )

    # --- the whole ---

    def own_bytes(self, of_all: bool) -> dict[str, tuple[float, float]]:
        """Bytes (read, written) that the play will ask of each level, for transfers of all cores together or for those of each."""
        gemm = self.mapping.gemm
        read, written = dict.fromkeys(self.ports.of_level, 0.0), dict.fromkeys(self.ports.of_level, 0.0)
        for link in self.links:
            if link.of_all != of_all:
                continue
            elements, often, returns = link.stays.elements, link.stays.often, link.stays.ago > 0
            if link.role == "psums":
                back, often_back = link.bytes_of(elements, gemm.acc_bits, 1), often * returns
                away = link.bytes_of(elements, np.where(link.stays.last, gemm.out_bits, gemm.acc_bits), 1)
                arrives = ~link.stays.last | gemm.out_in_dram | (not link.from_dram)
                read[link.inner.name] += float(np.sum(often * away[1]))
                written[link.outer.name] += float(np.sum(often * away[0] * arrives))
            else:
                back, often_back = link.bytes_of(elements, self.bits[link.role], 1), often
            read[link.outer.name] += float(np.sum(often_back * back[0]))
            written[link.inner.name] += float(np.sum(often_back * back[1]))
        if of_all:
            return {name: (read[name], written[name]) for name in read}
        steps: dict[tuple[int, int, int, bool], int] = {}
        for piece, count in zip(self.nest.pieces, self.nest.rows.often.tolist(), strict=True):
            steps[piece] = steps.get(piece, 0) + count
        for piece, count in steps.items():
            for port, out, into in self._moves(*piece):
                read[port.name] += out * count
                written[port.name] += into * count
        return {name: (read[name], written[name]) for name in read}

    def _state(self) -> State:
        """All times, all causes, all that only adds up."""
        times, causes = [self.drained], []
        for link in self.links:
            times += link.times
            causes += link.causes
        return self.books.state(times, causes)

    def _jump(self, shift: list[float], old: State, periods: int, row: int) -> None:
        """Add what so many periods add, whose last step is that of a row."""
        moves = iter(self.books.jump(old, shift, periods))
        self.drained += next(moves)
        for link in self.links:
            link.times = [time + next(moves) for time in link.times]
            link.at = link.stay_of_row[row]

    def play(self) -> Played:
        """All steps, then the last stores."""
        if self.log is not None:
            for each in self.ahead:
                each.write(self.log, self.ops.product)
        walk = Walk(self.nest, self.nest.codes(some_early=bool(self.loads[1][0].early)))
        seen: dict[int, tuple[int, State, int]] = {}
        while not walk.is_over:
            # What the array has waited for so far, and all that it has to do.
            if self.ports.matrix.free - self.ports.matrix.busy + self.array_cycles > self.latest or self.steps >= self.most_steps:
                raise Abandoned
            self.steps += 1
            if walk.loop >= 0 and self._repeat(walk, seen):
                continue
            self._switch(walk.row)
            self._step(walk.row)
            self._after(walk.row)
            walk.go_on()
        return self._close()

    def _repeat(self, walk: Walk, seen: dict[int, tuple[int, State, int]]) -> bool:
        """Where a trip of a loop begins: if the one before moved the state in time, and those to come are like it, add up what they do."""
        loop, trip = walk.loop, walk.trip
        repeats, known, state = walk.alike(trip), seen.pop(loop, None), None
        if repeats and known is not None and known[0] == trip - 1:
            state = self._state()
            shift = known[1].shift_to(state)
            if shift is not None:
                if self.log is not None:
                    self.log.repeat(known[2], repeats, shift[0])
                self._jump(shift, known[1], repeats, walk.skip(repeats))
                return True
        if repeats > 1 or walk.alike(trip + 1):
            seen[loop] = trip, state or self._state(), 0 if self.log is None else len(self.log)
        return False

    def _close(self) -> Played:
        """What follows the last step."""
        matrix = self.ports.matrix
        drained = max(self.drained, matrix.free)
        self._wait("array", matrix.free, drained)
        for link in reversed(self.sums):
            self._give_way(link, is_at_once=True)
        done = max(self.sums[-1].times[SUMS_BEFORE], drained) if self.sums else self._beside(drained, 1.0)
        self._wait("vector", drained, done)
        end = max(done, *(unit.free for unit in self.ports.units)) if self.sums else done
        self._wait("dram", done, end)
        moved = {name: (port.read_bytes, port.written_bytes) for name, port in self.ports.of_level.items()}
        left = [links[0].times[USED_BEFORE] for links in self.loads if links and links[0].double]
        begin = min(max(self.tail.last, *left, 0.0), end)
        idle = self.tail.idle(begin, end)
        return Played(end, self.ports.busy, self.ports.spans, self.waits, moved, idle, end - begin, self.ahead, self.log)


def play_gemm(
    mapping: GemmMapping,
    chip: Chip,
    cost: GemmCost,
    besides: Besides = NOTHING,
    a_resident: bool = False,
    log: Log | None = None,
    ops: GemmOps = GemmOps(),  # noqa: B008
    windows: Sequence[Window] = (),
) -> Played:
    """Play a mapping; `cost` is its tiled cost, which says what all cores ask of the levels that they share.

    Given a `log`, every tile is written into it, in cycles. What `windows` before its start allow of
    the first tiles of weights has come then. Raises `ScenarioError` for more than `LARGEST_PLAY` tiles.
    """
    return _player(mapping, chip, cost, besides, a_resident, log, ops, windows).play()


def played_within(
    mapping: GemmMapping, chip: Chip, cost: GemmCost, besides: Besides, a_resident: bool, latest: float, most_steps: int
) -> tuple[Played | None, int]:
    """The same, unless it is clear that it ends after `latest` cycles, or more steps than that would have to be played; and how many
    were."""
    player = _player(mapping, chip, cost, besides, a_resident, None, GemmOps(), ())
    player.latest, player.most_steps, player.array_cycles = latest, most_steps, cost.array_cycles
    try:
        return player.play(), player.steps
    except Abandoned:
        return None, player.steps


def _player(
    mapping: GemmMapping,
    chip: Chip,
    cost: GemmCost,
    besides: Besides,
    a_resident: bool,
    log: Log | None,
    ops: GemmOps,
    windows: Sequence[Window],
) -> Player:
    if cost.tile_steps > LARGEST_PLAY:
        message = f"the cycle engine would play {cost.tile_steps:,} tiles of one GEMM; it plays up to {LARGEST_PLAY:,}"
        raise ScenarioError(Problem(message, "take another engine, or a smaller product"))
    setting = setting_of(mapping.gemm, chip, a_resident)
    player = Player(mapping, setting, Ports.of(chip), besides, log, ops)
    rows = player.nest.rows
    player.issued_share = cost.issued_macs / float((rows.often * rows.lengths[:, -1].prod(axis=1)).sum())
    if mapping.split != (1, 1):
        once = player.own_bytes(of_all=True)
        for name, (read, written) in player.own_bytes(of_all=False).items():
            port = player.ports.of_level[name]
            port.read_share = (cost.read_bytes[name] - once[name][0]) / read if read else 1.0
            port.write_share = (cost.written_bytes[name] - once[name][1]) / written if written else 1.0
    player.fetch_ahead(windows)
    return player
