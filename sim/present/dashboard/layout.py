"""A drawing of one layer's op graph: ranks from top to bottom, few crossings, long edges led past the boxes.

Layered drawing after Sugiyama, Tagawa and Toda (IEEE Trans. SMC 11(2), 1981): longest-path ranks, a dummy in every rank that an edge only
passes, barycentre ordering, then a straight longest path with all else beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from functional.spec import format_shape
from workloads.graph import OpGraph

BOX, GAP, RANK = 150, 22, 82
"""Width of a box, room between boxes, and distance of ranks, in units of the drawing."""

PASS = 18
"""Width that an edge takes where it passes a rank."""

SWEEPS = 12


@dataclass
class _Layers:
    """Nodes by rank; `above[node]` and `below[node]` are its neighbours in the next ranks."""

    ranks: list[list[str]]
    above: dict[str, list[str]]
    below: dict[str, list[str]]
    dummies: set[str] = field(default_factory=set)


def layer_drawing(graph: OpGraph, component: str) -> dict[str, Any]:
    """Nodes and edges of one component with coordinates, as plain data.

    Nodes: op index (-1 for what comes from outside), kind, label, what it holds (a weight's shape), centre x and y. Edges: the points of a
    polyline and the shape of the tensor, with the op indices at both ends.
    """
    inside = {op.name: i for i, op in enumerate(graph.ops) if op.component == component}
    held: dict[str, list[str]] = {}
    outside: dict[str, str] = {}
    edges: list[tuple[str, str, str]] = []
    for name, i in inside.items():
        for use in graph.ops[i].inputs:
            role = graph.tensors[use.tensor].role
            shape = format_shape(use.spec.shape)
            if role in ("weight", "constant"):
                held.setdefault(name, []).append(shape)
                continue
            if use.tensor not in inside:
                outside[use.tensor] = role
            edges.append((use.tensor, name, shape))
    layers, chains = _layers([*outside, *inside], edges)
    _order(layers)
    x = _coordinates(layers)
    rank_of = {node: r for r, rank in enumerate(layers.ranks) for node in rank}

    def at(node: str) -> list[float]:
        return [round(x[node], 1), rank_of[node] * RANK]

    nodes = [
        {
            "op": inside.get(name, -1),
            "kind": graph.ops[inside[name]].kind if name in inside else outside[name],
            "label": name.removeprefix(f"{component}."),
            "holds": held.get(name, []),
            "at": at(name),
        }
        for name in (*outside, *inside)
    ]
    drawn = [
        {"from": inside.get(source, -1), "to": inside[target], "shape": shape, "path": [at(node) for node in chain]}
        for (source, target, shape), chain in zip(edges, chains, strict=True)
    ]
    return {"component": component, "nodes": nodes, "edges": drawn, "box": BOX, "rank": RANK}


def _layers(nodes: Sequence[str], edges: Sequence[tuple[str, str, str]]) -> tuple[_Layers, list[list[str]]]:
    """Ranks with dummies, and the nodes along each edge. `nodes` come in an order in which sources stand before targets."""
    rank = _ranks(nodes, edges)
    layers = _Layers([[] for _ in range(max(rank.values()) + 1)], {}, {})
    for node in nodes:
        layers.ranks[rank[node]].append(node)
    chains = []
    for source, target, _ in edges:
        passed = [f"{source} > {r}" for r in range(rank[source] + 1, rank[target])]  # edges of one tensor run together
        for r, dummy in enumerate(passed, start=rank[source] + 1):
            if dummy not in layers.dummies:
                layers.dummies.add(dummy)
                layers.ranks[r].append(dummy)
        chain = [source, *passed, target]
        chains.append(chain)
        for upper, lower in itertools.pairwise(chain):
            below = layers.below.setdefault(upper, [])
            if lower not in below:
                below.append(lower)
                layers.above.setdefault(lower, []).append(upper)
    return layers, chains


def _ranks(nodes: Sequence[str], edges: Sequence[tuple[str, str, str]]) -> dict[str, int]:
    """Longest path from the top; what has no source of its own stands just above its first target."""
    rank = dict.fromkeys(nodes, 0)
    for node in nodes:
        rank[node] = max((rank[source] + 1 for source, target, _ in edges if target == node), default=0)
    sourceless = set(nodes) - {target for _, target, _ in edges}
    for node in sourceless:
        rank[node] = min(rank[target] for source, target, _ in edges if source == node) - 1
    lowest = min(rank.values())
    return {node: r - lowest for node, r in rank.items()}


def _order(layers: _Layers) -> None:
    """Sort each rank by the mean place of its neighbours, downwards and upwards in turn."""
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        neighbours = layers.above if down else layers.below
        ranks = layers.ranks if down else layers.ranks[::-1]
        for before, rank in itertools.pairwise(ranks):
            place = {node: i / len(before) for i, node in enumerate(before)}
            own = {node: i / len(rank) for i, node in enumerate(rank)}
            means = {node: _mean([place[each] for each in neighbours.get(node, []) if each in place], own[node]) for node in rank}
            rank.sort(key=means.__getitem__)


def _coordinates(layers: _Layers) -> dict[str, float]:
    """x of each node: a longest path stands straight at 0, all else as near to it as order, widths and straight edges allow."""
    spine = _spine(layers)
    x = dict.fromkeys(spine, 0.0)
    for side in (-1, 1):
        outward = []
        for rank in layers.ranks:
            at = next((i for i, node in enumerate(rank) if node in spine), 0)
            outward.append(rank[at::-1] if side < 0 else rank[at:])
        columns = _columns(layers, [set(nodes[1:]) for nodes in outward])
        offset = dict.fromkeys(spine, 0.0)
        for _ in range(SWEEPS):
            for nodes in outward:
                for inner, node in itertools.pairwise(nodes):
                    least = offset[inner] + (_width(layers, inner) + _width(layers, node)) / 2 + GAP
                    offset[node] = max(offset.get(node, 0.0), least)
            for column in columns:
                straight = max(offset[node] for node in column)
                offset.update(dict.fromkeys(column, straight))
        x |= {node: side * offset[node] for nodes in outward for node in nodes[1:]}
    least = min(x.values())
    return {node: place - least for node, place in x.items()}


def _spine(layers: _Layers) -> list[str]:
    """A longest path of boxes, from the first rank to the last."""
    path: dict[str, list[str]] = {}
    for rank in layers.ranks:
        for node in rank:
            if node not in layers.dummies:
                before = [path[each] for each in layers.above.get(node, []) if each in path]
                path[node] = [*max(before, key=len, default=[]), node]
    return max(path.values(), key=len)


def _columns(layers: _Layers, sides: Sequence[set[str]]) -> list[list[str]]:
    """Nodes of one side that should stand one below the other: each with the first neighbour below that no other has taken."""
    column_of: dict[str, list[str]] = {}
    for upper, lower in itertools.pairwise(sides):
        taken: set[str] = set()
        for node in sorted(upper, key=lambda node: (node not in layers.dummies, len(layers.below.get(node, [])))):
            column = column_of.setdefault(node, [node])
            free = [each for each in layers.below.get(node, []) if each in lower and each not in taken]
            if free:
                taken.add(free[0])
                column.append(free[0])
                column_of[free[0]] = column
    return list({id(column): column for column in column_of.values()}.values())


def _width(layers: _Layers, node: str) -> float:
    return PASS if node in layers.dummies else BOX


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
