"""Kernel data -> Frame, one module per layer. Everything here runs in the collector process."""
