"""Networks on graphs: messages along edges."""
