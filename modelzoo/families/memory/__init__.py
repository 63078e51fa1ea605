"""Memory: networks whose attractors are stored patterns."""
