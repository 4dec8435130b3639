"""ktop: `top` for the kernel."""

__version__ = "0.1.0"
