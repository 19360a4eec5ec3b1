"""Exploration of the design space: solve for a target, sensitivities, limits, comparisons and sweeps."""
