"""Running a sweep: chunk after chunk into partition files beside the result, on one process or many, and at the end one Parquet file.

A chunk is written under another name and renamed when it is whole, so that a sweep that was interrupted, however rudely, goes on after its
last whole chunk. The result appears in one step, too. Its bytes depend on the sweep alone, not on chunks, workers or interruptions.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from functional.errors import BadInput, Problem
from sim.explore.extras import needed
from sim.explore.sweep_file import MAX_POINTS, Sweep, load_sweep
from sim.explore.sweep_rows import Evaluator, described, results_table, table

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK_POINTS = 2**18
"""Points of a chunk where they are evaluated as arrays: about a quarter of a second."""

SCALAR_CHUNK_POINTS = 2**8
"""Points of a chunk of any other engine, or one box: at most a few seconds."""

ROW_GROUP = 2**18
"""Rows of a row group of the result."""

PARTS_FORMAT = 1
"""Version of the layout of the folder of partitions."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of a sweep did: points in the result, chunks in all, those evaluated now, whether there was nothing left to do, and which
    of its axes may be taken for something else."""

    path: Path
    points: int
    chunks: int
    evaluated: int
    was_complete: bool
    notes: tuple[str, ...]


def sweep(
    file: str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    max_points: int = MAX_POINTS,
    workers: int = 0,
    scheduler: str | None = None,
    chunk_points: int | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Evaluate a sweep file into a Parquet file. `progress(points, of)` is called after each chunk.

    With `workers`, on that many local processes; with `scheduler`, on the dask cluster at that address, whose workers must see the folder
    of `out`. Raises `BadInput`: all that is wrong with the file, an output that exists, a folder that cannot be written, a cluster that is
    not there, an interrupted run that is of another sweep or version.
    """
    needed("pyarrow", "sweeps", "explore")
    out = Path(out)
    if out.suffix != ".parquet":
        better = out.with_suffix(".parquet") if out.name else "results.parquet"
        cure = f"write '{better}'; pandas, polars and DuckDB turn it into other formats"
        raise BadInput(Problem("a sweep writes Parquet", cure, str(out), path="--out"))
    asked = load_sweep(file, max_points)
    run = _Run(asked, out, chunk_points)
    if run.is_complete(resume, overwrite):
        return Outcome(out, asked.points, run.chunks, 0, True, asked.notes)
    run.prepare(resume)
    missing = run.missing()
    tell = progress or (lambda done, of: None)
    done = asked.points - sum(run.points_of(chunk) for chunk in missing)
    tell(done, asked.points)
    with run.explained(), run.out_of_the_way():
        for chunk in _evaluated(run, missing, workers, scheduler):
            done += run.points_of(chunk)
            tell(done, asked.points)
        run.merge()
    return Outcome(out, asked.points, run.chunks, len(missing), False, asked.notes)


def sweep_table(file: str | Path, max_points: int = MAX_POINTS) -> pa.Table:
    """A whole sweep in memory, for notebooks; the same rows that `sweep` writes."""
    needed("pyarrow", "sweeps", "explore")
    evaluator = Evaluator(load_sweep(file, max_points))
    return table(evaluator, range(evaluator.grid.boxes))


class _Run:
    """One sweep on its way into one file."""

    def __init__(self, asked: Sweep, out: Path, chunk_points: int | None) -> None:
        self.asked = asked
        self.out = out
        self.parts = out.with_name(f"{out.name}.parts")
        self.digest = asked.digest
        self.evaluator = Evaluator(asked)
        default = CHUNK_POINTS if asked.engine == "roofline" else SCALAR_CHUNK_POINTS
        self._set_boxes_per_chunk(max(1, (chunk_points or default) // self.evaluator.grid.largest_box))

    def _set_boxes_per_chunk(self, boxes: int) -> None:
        self.boxes_per_chunk = boxes
        self.chunks = -(-self.evaluator.grid.boxes // boxes)

    def boxes(self, chunk: int) -> range:
        return range(chunk * self.boxes_per_chunk, min(self.evaluator.grid.boxes, (chunk + 1) * self.boxes_per_chunk))

    def points_of(self, chunk: int) -> int:
        boxes = self.boxes(chunk)
        grid = self.evaluator.grid
        end = grid.box(boxes.stop).start if boxes.stop < grid.boxes else self.asked.points
        return end - grid.box(boxes.start).start

    def part(self, chunk: int) -> Path:
        return self.parts / f"chunk-{chunk:08d}.arrow"

    @property
    def provenance(self) -> dict[str, Any]:
        return {
            "rooftile": version("rooftile"),
            "inputs_sha256": self.digest,
            "engine": self.asked.engine,
            "points": self.asked.points,
            "chips": [chip.name for chip in self.asked.chips],
            "axes": [axis.path for axis in self.asked.axes],
            "constraints": [condition.text for condition in self.asked.constraints],
            "objectives": list(self.asked.objectives),
        }

    def is_complete(self, resume: bool, overwrite: bool) -> bool:
        """Whether the result is there already; raises where it must not be touched."""
        if not self.out.parent.is_dir():
            raise BadInput(Problem("no such folder", "create it, or choose another place", str(self.out.parent), path="--out"))
        if overwrite:
            shutil.rmtree(self.parts, ignore_errors=True)
            return False
        if not self.out.exists():
            return False
        if not resume:
            raise BadInput(Problem("exists already", "say --overwrite, or name another file", str(self.out), path="--out"))
        found = provenance_of(self.out)
        if found.get("inputs_sha256") != self.digest or found.get("rooftile") != version("rooftile"):
            raise BadInput(Problem(self._other(found), "say --overwrite, or name another file", str(self.out), path="--resume"))
        return True

    def _other(self, found: dict[str, Any]) -> str:
        if found.get("rooftile") not in (None, version("rooftile")):
            return f"is of version {found['rooftile']}, and this is {version('rooftile')}"
        return "is the result of another sweep"

    def prepare(self, resume: bool) -> None:
        """Make the folder of partitions, or take up the one that is there."""
        manifest = self.parts / "manifest.json"
        if self.parts.exists() and not resume:
            cure = "say --resume to go on, or --overwrite to begin again"
            raise BadInput(Problem("an interrupted sweep lies here", cure, str(self.parts), path="--out"))
        with self.explained():
            if manifest.exists():
                found = json.loads(manifest.read_text(encoding="utf-8"))
                if found.get("inputs_sha256") != self.digest or found["rooftile"] != version("rooftile") or found["parts"] != PARTS_FORMAT:
                    cure = "say --overwrite to begin again"
                    raise BadInput(Problem(self._other(found), cure, str(self.parts), path="--resume"))
                self._set_boxes_per_chunk(found["boxes_per_chunk"])
                return
            self.parts.mkdir(exist_ok=True)
            content = {**self.provenance, "parts": PARTS_FORMAT, "boxes_per_chunk": self.boxes_per_chunk}
            _replace(manifest, lambda path: path.write_text(json.dumps(content, indent=1), encoding="utf-8"))

    def missing(self) -> list[int]:
        there = {path.name for path in self.parts.glob("chunk-*.arrow")}
        return [chunk for chunk in range(self.chunks) if self.part(chunk).name not in there]

    def merge(self) -> None:
        """All partitions into one Parquet file, in order, in row groups that do not depend on them; then the partitions go."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = self.evaluator.schema.with_metadata({"rooftile": json.dumps(self.provenance)})
        words = [field.name for field in columns if pa.types.is_dictionary(field.type)]
        figures = [name for name in columns.names if name not in words]

        def write(path: Path) -> None:
            with pq.ParquetWriter(path, columns, use_dictionary=words, compression="zstd", write_statistics=figures) as writer:
                for group in self._row_groups():
                    writer.write_table(group.replace_schema_metadata(columns.metadata), row_group_size=ROW_GROUP)

        # Names of processes that were killed while they merged; the result is never written by two at a time.
        for torn in self.out.parent.glob(f".{glob.escape(self.out.name)}.*.unfinished"):
            torn.unlink(missing_ok=True)
        _replace(self.out, write)
        shutil.rmtree(self.parts, ignore_errors=True)

    def _row_groups(self) -> Iterator[pa.Table]:
        import pyarrow as pa

        waiting: list[pa.Table] = []
        for chunk in range(self.chunks):
            with pa.OSFile(str(self.part(chunk))) as file:
                results = pa.ipc.open_file(file).read_all()
            waiting.append(described(self.evaluator, self.boxes(chunk), results))
            while sum(map(len, waiting)) >= ROW_GROUP:
                joined = pa.concat_tables(waiting)
                yield joined.slice(0, ROW_GROUP)
                waiting = [joined.slice(ROW_GROUP)]
        rest = pa.concat_tables(waiting)
        if len(rest):
            yield rest

    @contextmanager
    def out_of_the_way(self) -> Iterator[None]:
        """What is refused before the first chunk leaves no folder behind, which the next try would take for an interrupted sweep."""
        try:
            yield
        except BadInput:
            if len(self.missing()) == self.chunks:
                shutil.rmtree(self.parts, ignore_errors=True)
            raise

    @contextmanager
    def explained(self) -> Iterator[None]:
        """What the disk refuses becomes a message that says what is kept."""
        try:
            yield
        except OSError as error:
            kept = f"; {self.chunks - len(self.missing())} of {self.chunks} chunks are kept in {self.parts}" if self.parts.exists() else ""
            reason = error.strerror or str(error)
            raise BadInput(
                Problem(f"cannot write: {reason}{kept}", "make room or choose another place, then --resume", str(self.out))
            ) from error


def provenance_of(path: Path) -> dict[str, Any]:
    """What a result says of itself; empty if it is no result of a sweep. Raises `BadInput` if it is no Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(path).metadata or {}
    except FileNotFoundError:
        raise BadInput(Problem("no such file", "check the spelling of the path", str(path))) from None
    except (OSError, pa.ArrowInvalid):
        raise BadInput(Problem("is no Parquet file", "name a file that `rooftile sweep` wrote", str(path))) from None
    found = json.loads(metadata.get(b"rooftile", b"{}"))
    assert isinstance(found, dict)
    return found


def why_nothing(path: Path) -> str:
    """Why the first point of a result is invalid, if all are; else nothing."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    column = file.schema_arrow.get_field_index("valid")
    groups = [file.metadata.row_group(i).column(column).statistics for i in range(file.num_row_groups)]
    return "" if any(each is None or each.max for each in groups) else str(file.read_row_group(0, ["reason"])["reason"][0])


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name, and rename it when it is whole."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        write(unfinished)
        os.replace(unfinished, path)
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()


def write_chunk(evaluator: Evaluator, boxes: range, path: Path) -> None:
    """Evaluate some boxes and leave their rows in a partition file."""
    import pyarrow as pa

    rows = results_table(evaluator, boxes).combine_chunks()

    def write(unfinished: Path) -> None:
        with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
            writer.write_table(rows)

    _replace(path, write)


def _evaluated(run: _Run, chunks: list[int], workers: int, scheduler: str | None) -> Iterator[int]:
    """The chunks as they are written."""
    if not chunks:
        return
    if not workers and scheduler is None:
        for chunk in chunks:
            write_chunk(run.evaluator, run.boxes(chunk), run.part(chunk))
            yield chunk
        return
    from sim.explore.cluster import evaluated

    tasks = ((chunk, run.boxes(chunk), str(run.part(chunk).absolute())) for chunk in chunks)
    yield from evaluated(run.asked, tasks, workers, scheduler)
