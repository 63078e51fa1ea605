"""Networks whose inputs are the weights of other networks."""
