"""Published models as pure functions: one formula, one citation, units in every name, scalars and NumPy arrays alike."""
