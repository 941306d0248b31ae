"""Filters of a module: the algebra of Eqs. (2), (4), (5) and the linear systems that follow from it."""

from morphnet.graph.feasibility import Anchor, Feasibility, check_feasible
from morphnet.solvers.algebra import add, adjoint, compose, orthogonal, zero_pad
from morphnet.solvers.als import solve_als, solve_irreducible
from morphnet.solvers.auto import INITS, METHODS, embed_even, solve
from morphnet.solvers.balance import balance
from morphnet.solvers.module_filter import evaluate_module, module_filter, path_sum, residual_of
from morphnet.solvers.paraunitary import paraunitary
from morphnet.solvers.solution import TOLERANCE, Filters, Solution, Type1Solution
from morphnet.solvers.type1 import solve_type1
from morphnet.solvers.type2 import solve_type2

__all__ = [
    "INITS",
    "METHODS",
    "TOLERANCE",
    "Anchor",
    "Feasibility",
    "Filters",
    "Solution",
    "Type1Solution",
    "add",
    "adjoint",
    "balance",
    "check_feasible",
    "compose",
    "embed_even",
    "evaluate_module",
    "module_filter",
    "orthogonal",
    "paraunitary",
    "path_sum",
    "residual_of",
    "solve",
    "solve_als",
    "solve_irreducible",
    "solve_type1",
    "solve_type2",
    "zero_pad",
]
