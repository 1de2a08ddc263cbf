"""The loop, the solver, optimisation, scoring and memory."""
