"""x*: one equation, its solvers, its gradient, its bounds; H is known as a function only."""
