"""Filters for a module: the algebra of Eqs. (2) and (4), and the linear systems it leads to."""

from morphnet.solvers.algebra import compose, orthogonal, zero_pad
from morphnet.solvers.solution import TOLERANCE, Type1Solution
from morphnet.solvers.type1 import solve_type1

__all__ = ["TOLERANCE", "Type1Solution", "compose", "orthogonal", "solve_type1", "zero_pad"]
