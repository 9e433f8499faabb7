"""Convert ResNeXt weights of retired frameworks to PyTorch, and prove that the outputs are the same."""

__version__ = "0.1.0"
