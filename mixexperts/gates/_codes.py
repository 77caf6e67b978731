"""Trees over experts: their shapes, binary codes, and which expert sits where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from mixexperts._batch import Array, Batch, dense

#: A leaf by number, or a tuple of two or more trees.
Shape: TypeAlias = Any


def checked_shape(structure: Any) -> Shape:
    """A nested tuple in which each of the leaves 0, 1, ... stands once.

    Raises
    ------
    TypeError, ValueError
        If it is none.
    """
    if structure is None:
        return None
    shape = _as_tuple(structure)
    leaves = sorted(leaves_of(shape))
    if leaves != list(range(len(leaves))):
        raise ValueError(
            f"structure must hold each of the leaves 0, 1, ... once, got {structure!r} with the "
            f"leaves {leaves}"
        )
    return shape


def _as_tuple(node: Any) -> Shape:
    if isinstance(node, tuple | list):
        if len(node) < 2:
            raise ValueError(f"structure has a split with {len(node)} branches: {node!r}; give two")
        return tuple(map(_as_tuple, node))
    if isinstance(node, bool) or not isinstance(node, int | np.integer):
        raise TypeError(
            "structure must be a nested tuple of the leaves 0, 1, ..., such as ((0, 1), (2, 3)); "
            f"got {node!r} in it"
        )
    return int(node)


def leaves_of(shape: Shape) -> Iterator[int]:
    """The leaves from left to right."""
    if isinstance(shape, tuple):
        for branch in shape:
            yield from leaves_of(branch)
    else:
        yield shape


def balanced(leaves: range) -> Shape:
    """The binary tree of least depth."""
    if len(leaves) == 1:
        return leaves[0]
    half = len(leaves) // 2
    return balanced(leaves[:half]), balanced(leaves[half:])


def pruned(shape: Shape, n_leaves: int) -> Shape:
    """The tree of the leaves below ``n_leaves``: splits with one branch left are taken out."""
    if not isinstance(shape, tuple):
        return shape if shape < n_leaves else None
    branches = [b for b in (pruned(branch, n_leaves) for branch in shape) if b is not None]
    if len(branches) < 2:
        return branches[0] if branches else None
    return tuple(branches)


def splits(shape: Shape, n_leaves: int) -> list[Array]:
    """For each split, from the root on, which leaves lie under its branches, (c, n) bool."""
    found: list[Array] = []
    queue = [shape]
    while queue:
        node = queue.pop(0)
        if not isinstance(node, tuple):
            continue
        members = np.zeros((len(node), n_leaves), dtype=bool)
        for j, branch in enumerate(node):
            members[j, list(leaves_of(branch))] = True
        found.append(members)
        queue.extend(node)
    return found


def codes(n_leaves: int) -> Array:
    """Binary codes (n, m) of the leaves of the balanced tree, -1 where a bit does not matter.

    Of all words of m bits each belongs to one leaf: no mass can sit on an unused code.
    """
    depth = int(np.ceil(np.log2(n_leaves))) if n_leaves > 1 else 0
    table = np.full((n_leaves, depth), -1, dtype=np.int64)

    def walk(node: Shape, bit: int) -> None:
        if isinstance(node, tuple):
            for value, branch in enumerate(node):
                table[list(leaves_of(branch)), bit] = value
                walk(branch, bit + 1)

    walk(balanced(range(n_leaves)), 0)
    return table


def along_features(batch: Batch, resp: Array) -> Array:
    """Experts in the order of their mean features along the direction in which these differ most.

    Experts that are near each other in the features then share branches.
    """
    n_experts = resp.shape[1]
    design = dense(batch.Z)
    weight = resp * batch.weight[:, None]
    mass = weight.sum(axis=0)
    means = (weight.T @ design) / np.maximum(mass, np.finfo(float).tiny)[:, None]
    means = np.where(mass[:, None] > 0.0, means, 0.0)
    centred = means - (mass @ means) / mass.sum()
    if n_experts < 3 or not design.shape[1]:
        return np.arange(n_experts)
    direction = np.linalg.svd(np.sqrt(mass)[:, None] * centred, full_matrices=False)[2][0]
    direction = direction * np.sign(direction[np.abs(direction).argmax()])
    return np.argsort(np.round(centred @ direction, 9), kind="stable")
