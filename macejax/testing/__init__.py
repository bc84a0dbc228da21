"""The contract that any potential must keep, as a function that says whether it does."""

from macejax.testing.check import check_potential
from macejax.testing.report import Check, Report

__all__ = ["Check", "Report", "check_potential"]
