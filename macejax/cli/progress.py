"""How far a simulation is: a live bar in a terminal, a line for every tenth where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress(name: str, total: int, unit: str = "step") -> Iterator[Callable[[int, str], None]]:
    """A function `(steps done, note)` to be called as often as one likes; `unit` is what is counted."""
    console = Console()
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(name, total=total, note="")
            yield lambda done, note: bar.update(task, completed=done, note=note)
        return
    told = 0

    def tell(done: int, note: str) -> None:
        nonlocal told
        tenth = 10 * done // max(total, 1)
        if tenth > told:
            told = tenth
            print(f"{name}: {unit} {done} of {total}  {note}", flush=True)

    yield tell
