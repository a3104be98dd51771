"""The equilibrium ``lam A^H (A x - b) + F(x) = 0``: network, solvers, gradient."""
