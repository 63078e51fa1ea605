"""State space: linear recurrences between pointwise non-linearities."""
