"""Curvature of a loss in its parameters: Hessian, Gauss–Newton and Fisher operators, their spectra, and sharpness."""
