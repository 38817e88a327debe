"""What is asked of a backward program: pieces, norms or clipped sums of a parameter's gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpjax.basics.typing import PyTree
from dpjax.privatize.float32.scaling import hypot
from dpjax.privatize.structured.costs.methods import Budget
from dpjax.privatize.structured.norms import norm
from dpjax.privatize.structured.norms.sliced_table import sliced_norm_request
from dpjax.privatize.structured.norms.sums import sum_over_batch, summed
from dpjax.privatize.structured.program.evaluate import Request
from dpjax.privatize.structured.program.jaxpr import Atom, Program, loop_of
from dpjax.privatize.structured.terms.moves import Moves, apply_moves, factor_of
from dpjax.privatize.structured.terms.pieces import (
    Piece,
    arrays_of,
    form_of,
    out_of_adding_loop,
    out_of_stacking_loop,
    piece_of,
)
from dpjax.privatize.structured.terms.roots import LoopOutput, Root, Terms, operands


def pieces_request(terms: Terms, formed: Container[Root] = ()) -> Request:
    """The list of pieces that the gradient of one example is the sum of.

    The contractions that are in `formed` come as dense pieces.
    """
    plain = [(root, moves) for root, moves in terms if not isinstance(root, LoopOutput)]
    loops = [(root, moves) for root, moves in terms if isinstance(root, LoopOutput)]
    atoms, places = _atoms_of(plain)

    def finish(values: list[Any], from_loops: list[list[Piece]]) -> list[Piece]:
        all_pieces = [
            piece_of(root, moves, _lookup(values, place), root in formed)
            for (root, moves), place in zip(plain, places, strict=True)
        ]
        for (root, moves), pieces in zip(loops, from_loops, strict=True):
            length = root.length
            for piece in pieces:
                if root.stacked:
                    out = out_of_stacking_loop(piece, length)
                else:
                    out = out_of_adding_loop(piece)
                all_pieces.append(out.moved(moves))
        return all_pieces

    inner = tuple((root.equation, pieces_request(root.terms)) for root, _ in loops)
    return Request(atoms, finish, inner)


def stacked_output(terms: Terms) -> tuple[LoopOutput, Moves] | None:
    """The loop output that is the whole gradient: norm and sum can be taken inside the loop.

    None where the gradient is anything else than one output that a loop stacks.
    """
    if len(terms) != 1:
        return None
    root, moves = terms[0]
    return (root, moves) if isinstance(root, LoopOutput) and root.stacked else None


def norm_request(program: Program, terms: Terms, budget: Budget) -> Request:
    """The norm of the gradient of one example, taken inside loops where that is possible."""
    sliced = sliced_norm_request(program, terms, budget)
    if sliced is not None:
        return sliced
    request = norm_and_pieces_request(program, terms, budget)
    return dataclasses.replace(
        request, finish=lambda values, inner: request.finish(values, inner)[0]
    )


def norm_and_pieces_request(
    program: Program, terms: Terms, budget: Budget, formed: Container[Root] = ()
) -> Request:
    """The norm, and the pieces for a later sum; a stacking loop's come stacked over iterations.

    The contractions that are in `formed` are, and their products kept instead of the operands.
    """
    stacked = stacked_output(terms)
    if stacked is not None:
        root, moves = stacked

        def finish_loop(_: list[Any], inner: list[tuple[Any, ...]]) -> tuple[Any, ...]:
            stacked_norms, pieces = inner[0]
            return factor_of(moves) * hypot(stacked_norms), pieces

        body = loop_of(root.equation).body
        inside = norm_and_pieces_request(body, root.terms, budget, formed)
        return Request((), finish_loop, ((root.equation, inside),))
    request = pieces_request(terms, formed)
    sliced = sliced_norm_request(program, terms, budget)
    if sliced is not None:
        return _both(sliced, request)

    def finish(values: list[Any], inner: list[PyTree]) -> tuple[Any, ...]:
        pieces = request.finish(values, inner)
        return norm.norm(pieces, budget), pieces

    return dataclasses.replace(request, finish=finish)


def _both(first: Request, second: Request) -> Request:
    """The results of two requests to one program."""
    atoms, loops = len(first.atoms), len(first.loops)

    def finish(values: list[Any], inner: list[PyTree]) -> tuple[Any, ...]:
        return (
            first.finish(values[:atoms], inner[:loops]),
            second.finish(values[atoms:], inner[loops:]),
        )

    return Request(first.atoms + second.atoms, finish, first.loops + second.loops)


def num_stacking_loops(terms: Terms) -> int:
    """How many axes of iterations the pieces of `norm_and_pieces_request` have."""
    stacked = stacked_output(terms)
    return 0 if stacked is None else 1 + num_stacking_loops(stacked[0].terms)


class KeptSum(NamedTuple):
    """A sum to be taken: Σ_i factors_i · gradient_i, from the pieces that were kept of a parameter.

    The axes of iterations come first in the pieces, then that of the examples: in that order loops
    write them.
    """

    terms: Terms
    factors: jax.Array
    pieces: Sequence[Piece]
    shape: tuple[int, ...]


def take_sums(wanted: Sequence[KeptSum]) -> list[jax.Array]:
    """The sums, float32; where loops stacked the pieces, one iteration at a time.

    Parameters of one loop together: devices then exchange them together too.
    """
    sums: list[Any] = [None] * len(wanted)
    by_length: dict[int, list[int]] = {}
    outputs = [stacked_output(kept.terms) for kept in wanted]
    for index, (kept, output) in enumerate(zip(wanted, outputs, strict=True)):
        if output is None:
            sums[index] = _sum_of_pieces(kept)
        else:
            by_length.setdefault(output[0].length, []).append(index)
    for members in by_length.values():
        together = [(wanted[i], output) for i in members if (output := outputs[i]) is not None]
        for index, total in zip(members, _sums_by_iteration(together), strict=True):
            sums[index] = total
    return sums


def _sums_by_iteration(
    wanted: Sequence[tuple[KeptSum, tuple[LoopOutput, Moves]]],
) -> list[jax.Array]:
    def sum_iteration(all_pieces: list[Sequence[Piece]]) -> list[jax.Array]:
        return take_sums(
            [
                KeptSum(root.terms, kept.factors, pieces, root.shape[1:])
                for (kept, (root, _)), pieces in zip(wanted, all_pieces, strict=True)
            ]
        )

    stacked = jax.lax.map(sum_iteration, [kept.pieces for kept, _ in wanted])
    return [apply_moves(moves, sums) for (_, (_, moves)), sums in zip(wanted, stacked, strict=True)]


def _sum_of_pieces(wanted: KeptSum) -> jax.Array:
    total = jnp.zeros(wanted.shape, jnp.float32)
    for piece in wanted.pieces:
        part = sum_over_batch(wanted.factors, piece.arrays, piece.form)
        total = total + apply_moves(piece.form.moves, part)
    return total


def sum_request(
    terms: Terms, factor: jax.Array, shape: tuple[int, ...], *, adds_up: bool = False
) -> Request:
    """Requests c times the gradient of one example; under `vmap` the sum over examples, float32."""
    plain = [(root, moves) for root, moves in terms if not isinstance(root, LoopOutput)]
    loops = [(root, moves) for root, moves in terms if isinstance(root, LoopOutput)]
    atoms, places = _atoms_of(plain)

    def finish(values: list[Any], from_loops: list[jax.Array]) -> jax.Array:
        total = jnp.zeros(shape, jnp.float32)
        for (root, moves), place in zip(plain, places, strict=True):
            form = form_of(root, ())
            part = summed(factor, arrays_of(root, _lookup(values, place)), form)
            total = total + apply_moves(moves, part)
        for (_, moves), part in zip(loops, from_loops, strict=True):
            total = total + apply_moves(moves, part)
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


def _atoms_of(terms: list[Any]) -> tuple[tuple[Atom, ...], list[dict[Atom, int]]]:
    atoms: list[Atom] = []
    places = []
    for root, _ in terms:
        start = len(atoms)
        atoms.extend(operands(root))
        places.append({atom: start + i for i, atom in enumerate(operands(root))})
    return tuple(atoms), places


def _lookup(values: list[Any], place: dict[Atom, int]) -> Callable[[Atom], Any]:
    return lambda atom: values[place[atom]]
