"""The bundled example: data (experiments/demo_data), a configuration for two CPU cores, and a run that ends in a verdict."""

from macejax.demo.run import LIMITS, Result, demo_config, run_demo

__all__ = ["LIMITS", "Result", "demo_config", "run_demo"]
