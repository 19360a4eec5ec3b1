"""The energy and area of a chip: what its file states, and what follows from its process where the file says nothing.

A file that gives `process` has every number from published tables (`hwmodels.formulas.technology`), and may state any of them better. One
that gives no process states all of them, or has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from functional.errors import Problem, did_you_mean
from functional.formats import BITS
from hwmodels.chip import Area, Chip, Energy, MemoryLevel, Number, Provenance
from hwmodels.formulas import technology
from hwmodels.formulas.area import die_mm2, parts_mm2
from hwmodels.formulas.energy import sram_byte_j

_ARITHMETIC = "Horowitz, ISSCC 2014, and Jouppi et al., ISCA 2021, table 2"
_SRAM = f"{_ARITHMETIC}, through its 8 KB and the 1 MB of 7 nm; wires by their length (Dally et al., CACM 63(7), 2020)"
_OPERATORS = "Dally, NIPS 2015 tutorial, scaled by Stillmaker and Baas, Integration 58, 2017"
_CELLS = "published bit cells (IEDM, ISSCC) at an array efficiency of 0.35"
_IDLE = "idle power of a TPU v1, a K80 and a Haswell, Jouppi et al., ISCA 2017, table 2"
_FACTORS = "one assumed factor for all chips (hwmodels/formulas/technology.py)"


class Derived(NamedTuple):
    """A number that follows from the process, and from which tables."""

    value: float
    source: str


class Costs(NamedTuple):
    """Both sections of a chip, where each of their numbers comes from, and what is missing or wrong."""

    energy: Energy | None
    area: Area | None
    provenance: Mapping[str, Provenance]
    problems: list[Problem]


def area_mm2(chip: Chip) -> Number | None:
    """Area [mm2] of the die; None where nothing is known of it."""
    area = chip.area
    if area is None:
        return None
    modelled = parts_mm2(
        [
            *((chip.macs_per_cycle(name), each) for name, each in area.mac_mm2.items()),
            (chip.vector.lanes * chip.cores, area.lane_mm2),
            *((chip.capacity_bytes(level), area.memory_mm2[level.name]) for level in chip.memory[1:]),
            (chip.read_bytes_per_s(chip.dram), area.phy_mm2),
        ]
    )
    return die_mm2(modelled, area.fixed_mm2, area.other_share)


def byte_j(chip: Chip, level: MemoryLevel) -> Number:
    """Joules per byte [J/B] read from or written to a level."""
    assert chip.energy is not None
    access_j = chip.energy.access_j[level.name]
    if level.name not in chip.energy.wire_j:
        return access_j
    return sram_byte_j(access_j, chip.energy.wire_j[level.name], level.capacity_bytes)


def static_w(chip: Chip) -> Number:
    """Watts [W] that always flow: what is stated, and what leaks by area."""
    assert chip.energy is not None
    size_mm2 = area_mm2(chip)
    return chip.energy.static_w if size_mm2 is None else chip.energy.static_w + chip.energy.leakage_w_per_mm2 * size_mm2


def costs_of(chip: Chip, process_nm: float | None, energy: Mapping[str, Any] | None, area: Mapping[str, Any] | None) -> Costs:
    """`energy` and `area` are the sections of the file, without what it leaves out; `process_nm` [nm] fills the gaps."""
    problems = list(_wrong(chip, process_nm, energy or {}, area or {}))
    if problems or (process_nm is None and energy is None and area is None):
        return Costs(None, None, {}, problems)
    derived = {} if process_nm is None else _derived(chip, process_nm)
    stated = dict(_flat({"energy": energy or {}, "area": area or {}}, ""))
    if any(path.startswith("area.mac.") for path in stated):  # whoever states the area of one format means that no other has its own
        derived = {path: number for path, number in derived.items() if not path.startswith("area.mac.")}
    values = {"energy.static": 0.0, "energy.leakage": 0.0, "area.fixed": 0.0, "area.other": 0.0}
    values |= {path: number.value for path, number in derived.items()} | stated
    wanted = [section for section, given in (("energy", energy), ("area", area)) if given is not None or process_nm is not None]
    problems += [problem for section in wanted for problem in _missing(chip, section, values, process_nm is not None)]
    if "area" not in wanted and values["energy.leakage"]:
        problems.append(Problem("leaks by area, of which nothing is known", "state the section 'area', or 'static'", path="energy.leakage"))
    if problems:
        return Costs(None, None, {}, problems)
    provenance = {
        path: Provenance(f"{process_nm:g} nm: {number.source}", "assumed") for path, number in derived.items() if path not in stated
    }
    return Costs(_energy(chip, values) if "energy" in wanted else None, _area(values) if "area" in wanted else None, provenance, [])


def _flat(section: Any, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(section, Mapping):
        for key, part in section.items():
            yield from _flat(part, f"{path}.{key}" if path else str(key))
    else:
        yield path, section


def _wrong(chip: Chip, process_nm: float | None, energy: Mapping[str, Any], area: Mapping[str, Any]) -> Iterator[Problem]:
    smallest, largest = technology.SMALLEST_NM, technology.LARGEST_NM
    if process_nm is not None and not smallest <= process_nm <= largest:
        cure = "state the sections 'energy' and 'area' instead"
        yield Problem(f"published tables cover {smallest:g} to {largest:g} nm, found {process_nm:g} nm", cure, path="process")
    names = {"mac": chip.formats, "memory": tuple(level.name for level in chip.memory)}
    for section, given in (("energy", energy), ("area", area)):
        for field, known in names.items():
            for name in given.get(field, {}):
                if name not in known:
                    what = "matrix.rates has no such format" if field == "mac" else "the chip has no such level"
                    yield Problem(what, did_you_mean(name, known), path=f"{section}.{field}.{name}")
    if "wire" in energy.get("memory", {}).get(chip.dram.name, {}):
        yield Problem("only on-chip levels have wires of their own", "remove it", path=f"energy.memory.{chip.dram.name}.wire")
    if chip.dram.name in area.get("memory", {}):
        yield Problem("DRAM is not on the chip", "state 'area.phy', the area of its interface", path=f"area.memory.{chip.dram.name}")


def _paths(chip: Chip, section: str) -> Iterator[str]:
    """What a section must hold to be complete."""
    inner = [level.name for level in chip.memory[1:]]
    if section == "area":
        yield from ("area.lane", *(f"area.memory.{name}" for name in inner), "area.phy")
        return
    yield from (f"energy.mac.{name}" for name in chip.formats)
    yield from (f"energy.vector.{primitive}" for primitive in chip.vector.cycles)
    yield f"energy.memory.{chip.dram.name}.access"
    yield from (f"energy.memory.{name}.{part}" for name in inner for part in ("access", "wire"))


def _missing(chip: Chip, section: str, values: Mapping[str, float], has_process: bool) -> Iterator[Problem]:
    """Numbers that neither the file nor its process gives."""
    cure = "state it" if has_process else "state it, or give 'process: 7 nm' and it follows from published tables"
    of_dram = f"energy.memory.{chip.dram.name}.access", "area.phy"
    for path in _paths(chip, section):
        if path in values:
            continue
        if has_process and path in of_dram:
            yield _unpublished(chip.dram, path)
        else:
            yield Problem("is missing", cure, path=path)
    if section == "area" and not any(path.startswith("area.mac.") for path in values):
        yield Problem("is missing", cure, path="area.mac")


def _unpublished(dram: MemoryLevel, path: str) -> Problem:
    """A number that the DRAM's technology does not give."""
    named = dram.technology.upper()
    known = [name for name, each in technology.DRAM.items() if path != "area.phy" or each.phy_mm2_per_gb_s is not None]
    cure = f"set memory.{dram.name}.technology to one of {', '.join(known)}, or state the number"
    if not named:
        return Problem("follows from the technology of the DRAM, and the file names none", cure, path=path)
    if named in technology.DRAM:
        return Problem(f"no published number for '{dram.technology}'", cure, path=path)
    numbers = f"energy.memory.{dram.name}.access and area.phy"
    cure = f"choose one of {', '.join(technology.DRAM)}, or state {numbers}"
    return Problem(f"'{dram.technology}' gives no {numbers}", cure, path=f"memory.{dram.name}.technology")


def _energy(chip: Chip, values: Mapping[str, float]) -> Energy:
    inner = [level.name for level in chip.memory[1:]]
    return Energy(
        mac_j={name: values[f"energy.mac.{name}"] for name in chip.formats},
        vector_j={primitive: values[f"energy.vector.{primitive}"] for primitive in chip.vector.cycles},
        access_j={level.name: values[f"energy.memory.{level.name}.access"] for level in chip.memory},
        wire_j={name: values[f"energy.memory.{name}.wire"] for name in inner},
        static_w=values["energy.static"],
        leakage_w_per_mm2=values["energy.leakage"],
    )


def _area(values: Mapping[str, float]) -> Area:
    def below(path: str) -> dict[str, float]:
        return {name.removeprefix(path): value for name, value in values.items() if name.startswith(path)}

    return Area(
        mac_mm2=below("area.mac."),
        lane_mm2=values["area.lane"],
        memory_mm2=below("area.memory."),
        phy_mm2=values["area.phy"],
        fixed_mm2=values["area.fixed"],
        other_share=values["area.other"],
    )


def _derived(chip: Chip, node_nm: float) -> dict[str, Derived]:
    """Every number that follows from the process and, for DRAM, from the name of its technology."""
    sums, inner = chip.matrix.accumulate, [level.name for level in chip.memory[1:]]
    formats = [name for name in chip.formats if technology.multiplies(name)]
    access_j, wire_j = technology.sram_j_per_byte(node_nm)
    found = {
        **{
            f"energy.mac.{name}": Derived(technology.mac_j(name, sums[name], node_nm), f"{_ARITHMETIC}; doubled: {_FACTORS}")
            for name in formats
        },
        **{
            f"energy.vector.{name}": Derived(technology.primitive_j(name, node_nm), f"{_ARITHMETIC}; with three register accesses")
            for name in chip.vector.cycles
        },
        **{f"energy.memory.{name}.access": Derived(access_j, _SRAM) for name in inner},
        **{f"energy.memory.{name}.wire": Derived(wire_j, _SRAM) for name in inner},
        "energy.leakage": Derived(technology.LEAKAGE_W_PER_MM2, _IDLE),
        "area.lane": Derived(technology.lane_mm2(node_nm), f"{_OPERATORS}; placed: {_FACTORS}"),
        **{f"area.memory.{name}": Derived(technology.sram_mm2_per_byte(node_nm), _CELLS) for name in inner},
        "area.other": Derived(technology.OTHER_SHARE, _FACTORS),
    }
    areas = {name: technology.mac_mm2(name, BITS[name], sums[name], node_nm) for name in formats}
    if areas:
        # The array is laid out for the operand bits that it takes per cycle; of formats that take as many, the wider one's serves all.
        widest = max(areas, key=lambda name: (float(chip.matrix.rates[name]) * BITS[name], BITS[name], areas[name]))
        found[f"area.mac.{widest}"] = Derived(areas[widest], f"{_OPERATORS}; placed: {_FACTORS}; other formats share this hardware")
    dram = technology.DRAM.get(chip.dram.technology.upper())
    if dram is not None:
        found[f"energy.memory.{chip.dram.name}.access"] = Derived(dram.pj_per_bit * 8e-12, dram.source)
        if dram.phy_mm2_per_gb_s is not None:
            found["area.phy"] = Derived(dram.phy_mm2_per_gb_s / 1e9, dram.source)
    return found
