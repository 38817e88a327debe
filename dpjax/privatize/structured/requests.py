"""What is asked of a backward program: pieces, norms or clipped sums of a parameter's gradient."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dpjax.privatize.structured import norms
from dpjax.privatize.structured.cost import Budget
from dpjax.privatize.structured.evaluate import Request
from dpjax.privatize.structured.moves import apply_moves, factor_of
from dpjax.privatize.structured.pieces import (
    Piece,
    arrays_of,
    form_of,
    out_of_adding_loop,
    out_of_stacking_loop,
)
from dpjax.privatize.structured.program import Atom
from dpjax.privatize.structured.roots import LoopOutput, Terms, operands
from dpjax.privatize.structured.sums import summed


def pieces_request(terms: Terms) -> Request:
    """The list of pieces that the gradient of one example is the sum of."""
    own = [(root, moves) for root, moves in terms if not isinstance(root, LoopOutput)]
    loops = [(root, moves) for root, moves in terms if isinstance(root, LoopOutput)]
    atoms, places = _atoms_of(own)

    def finish(values: list[Any], from_loops: list[list[Piece]]) -> list[Piece]:
        found = [
            Piece(form_of(root, moves), arrays_of(root, _lookup(values, place)))
            for (root, moves), place in zip(own, places, strict=True)
        ]
        for (root, moves), pieces in zip(loops, from_loops, strict=True):
            length = root.length
            for piece in pieces:
                out = out_of_stacking_loop(piece, length) if root.stacked else None
                found.append((out or out_of_adding_loop(piece)).moved(moves))
        return found

    inner = tuple((root.equation, pieces_request(root.terms)) for root, _ in loops)
    return Request(atoms, finish, inner)


def norm_request(terms: Terms, budget: Budget) -> Request:
    """The norm of the gradient of one example, taken inside loops where that is possible."""
    if len(terms) == 1 and isinstance(terms[0][0], LoopOutput) and terms[0][0].stacked:
        root, moves = terms[0]
        return Request(
            (),
            lambda _, stacked: factor_of(moves) * norms.hypot(stacked[0]),
            ((root.equation, norm_request(root.terms, budget)),),
        )
    pieces = pieces_request(terms)
    return Request(
        pieces.atoms,
        lambda values, inner: norms.norm(pieces.finish(values, inner), budget),
        pieces.loops,
    )


def sum_request(
    terms: Terms, factor: jax.Array, shape: tuple[int, ...], *, adds_up: bool = False
) -> Request:
    """c times the gradient of one example; under `vmap` the sum over examples, float32."""
    own = [(root, moves) for root, moves in terms if not isinstance(root, LoopOutput)]
    loops = [(root, moves) for root, moves in terms if isinstance(root, LoopOutput)]
    atoms, places = _atoms_of(own)

    def finish(values: list[Any], from_loops: list[jax.Array]) -> jax.Array:
        total = jnp.zeros(shape, jnp.float32)
        for (root, moves), place in zip(own, places, strict=True):
            form = form_of(root, ())
            one = summed(factor, arrays_of(root, _lookup(values, place)), form)
            total = total + apply_moves(moves, one)
        for (_, moves), one in zip(loops, from_loops, strict=True):
            total = total + apply_moves(moves, one)
        return total

    inner = tuple(
        (
            root.equation,
            sum_request(
                root.terms,
                factor,
                root.shape[1:] if root.stacked else root.shape,
                adds_up=not root.stacked,
            ),
        )
        for root, _ in loops
    )
    return Request(atoms, finish, inner, adds_up)


def _atoms_of(own: list) -> tuple[tuple[Atom, ...], list[dict[Atom, int]]]:
    atoms: list[Atom] = []
    places = []
    for root, _ in own:
        start = len(atoms)
        atoms.extend(operands(root))
        places.append({atom: start + i for i, atom in enumerate(operands(root))})
    return tuple(atoms), places


def _lookup(values: list[Any], place: dict[Atom, int]):
    return lambda atom: values[place[atom]]
