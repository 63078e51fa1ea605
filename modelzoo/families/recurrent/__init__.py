"""Recurrent: a state updated by the same gates at every time step."""
