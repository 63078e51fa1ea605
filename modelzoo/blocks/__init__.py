"""Mechanisms shared by several families: written once here, never copied between their files."""
