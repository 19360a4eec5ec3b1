"""A drawing of one layer's op graph: ranks from top to bottom, few crossings, long edges led past the boxes.

Layered drawing after Sugiyama, Tagawa and Toda (IEEE Trans. SMC 11(2), 1981): longest-path ranks, a dummy in every rank that an edge only
passes, barycentre ordering, then coordinates by repeated averaging.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from functional.spec import format_shape
from workloads.graph import OpGraph

BOX, GAP, RANK = 132, 26, 74
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
        for upper, lower in zip(chain, chain[1:], strict=False):
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
        for before, rank in zip(ranks, ranks[1:], strict=False):
            place = {node: i / len(before) for i, node in enumerate(before)}
            own = {node: i / len(rank) for i, node in enumerate(rank)}
            means = {node: _mean([place[each] for each in neighbours.get(node, []) if each in place], own[node]) for node in rank}
            rank.sort(key=means.__getitem__)


def _coordinates(layers: _Layers) -> dict[str, float]:
    """x of each node: near the mean of its neighbours, in the order of its rank, never closer than their widths allow."""
    x = {node: (i - (len(rank) - 1) / 2) * (BOX + GAP) for rank in layers.ranks for i, node in enumerate(rank)}
    for sweep in range(4 * SWEEPS):
        for rank in layers.ranks if sweep % 2 == 0 else layers.ranks[::-1]:
            wanted = [
                _mean([x[each] for each in (*layers.above.get(node, []), *layers.below.get(node, []))], x[node]) for node in rank
            ]
            for node, place in zip(rank, _spread(wanted, [_width(layers, node) for node in rank]), strict=True):
                x[node] = place
    least = min(x.values())
    return {node: place - least for node, place in x.items()}


def _width(layers: _Layers, node: str) -> float:
    return PASS if node in layers.dummies else BOX


def _spread(wanted: Sequence[float], widths: Sequence[float]) -> list[float]:
    """Places near the wanted ones that keep order and distance: the mean of pushing to the right and pushing to the left."""
    distances = [(a + b) / 2 + GAP for a, b in zip(widths, widths[1:], strict=False)]
    right, left = list(wanted), list(wanted)
    for i, distance in enumerate(distances):
        right[i + 1] = max(right[i + 1], right[i] + distance)
    for i in range(len(distances) - 1, -1, -1):
        left[i] = min(left[i], left[i + 1] - distances[i])
    return [(a + b) / 2 for a, b in zip(right, left, strict=True)]


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def size(drawing: Mapping[str, Any]) -> tuple[float, float]:
    """Width and height of a drawing, boxes included."""
    xs, ys = zip(*(node["at"] for node in drawing["nodes"]), strict=True)
    return max(xs) + BOX, max(ys) + RANK
