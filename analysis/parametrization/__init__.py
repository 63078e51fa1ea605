"""Parametrizations: how initialisation and learning rate of every tensor go with the width and depth of the network."""
