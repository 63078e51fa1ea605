"""What the symmetry group of a model does to it."""
