"""Functions over lists of gradients."""
