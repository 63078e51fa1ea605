"""Augmentations by kind; `metanets.training.augmentation` finds them here."""
