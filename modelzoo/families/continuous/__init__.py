"""Continuous: networks whose depth is time, integrated by a numerical solver."""
