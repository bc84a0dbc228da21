"""What a check found: one line per promise, a table, and an error that names the failures."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple


class Check(NamedTuple):
    """The worst case of one promise over all structures that it was tried on."""

    row: int  # row of the table in check_potential's docstring
    promise: str
    worst: float  # NaN where a result was not a number
    threshold: float  # largest value allowed
    structure: str  # the structure of the worst value
    passed: bool


class Report(NamedTuple):
    """All checks of one potential, in the order of the rows. `print(report)` shows the table."""

    dtype: str
    factor: float  # on all energies, for the thresholds to suit the potential
    checks: tuple[Check, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def passed(self) -> bool:
        """True where every check passed."""
        return not self.failures

    def __str__(self) -> str:
        return table(self.checks, f"check_potential in {self.dtype}, energies x {self.factor:g}")


def worst_of(row: int, promise: str, threshold: float, errors: Iterable[tuple[float, str]]) -> Check:
    """The check of a promise whose error in each structure is given as (error, structure); an error that is NaN fails."""
    found = [(float(error), structure) for error, structure in errors]
    if not found:
        raise ValueError(f"row {row} ({promise}) was tried on no structure: a promise that nothing was held against must not pass.")
    worst, structure = max(found, key=lambda pair: math.inf if math.isnan(pair[0]) else pair[0])
    return Check(row, promise, worst, threshold, structure, worst <= threshold)


def table(checks: Iterable[Check], title: str) -> str:
    """The checks as aligned text, a line each."""
    checks = list(checks)
    width = max([len(check.promise) for check in checks] + [len("promise")])
    lines = [title, f"{'row':>3}  {'promise':<{width}}  {'worst':>9}  {'threshold':>9}  {'':<6}  structure"]
    for check in checks:
        verdict = "ok" if check.passed else "FAILED"
        lines.append(
            f"{check.row:>3}  {check.promise:<{width}}  {check.worst:>9.1e}  {check.threshold:>9.1e}  {verdict:<6}  {check.structure}"
        )
    return "\n".join(lines)


def require(report: Report) -> None:
    """Raise AssertionError naming row, promise, structure, value and threshold of every failure; nothing where all passed."""
    if report.passed:
        return
    lines = [
        f"row {check.row} ({check.promise}): {check.worst:.3e} in structure {check.structure!r}, allowed is {check.threshold:.1e}"
        for check in report.failures
    ]
    raise AssertionError(f"{len(lines)} of {len(report.checks)} checks failed in {report.dtype}:\n" + "\n".join(lines))
