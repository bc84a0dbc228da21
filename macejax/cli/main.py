"""`macejax`: the commands, each imported when it is called, so that `--help` is quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated

import typer

COMMANDS = {
    "train": "Train a model.",
    "evaluate": "Predict a file of structures and tabulate the errors.",
    "info": "Describe a model file or a data file.",
    "convert": "Turn a model file of mace-torch into one of macejax.",
    "export": "Turn a model into one of mace-torch.",
    "heads": "List, select, remove or add the heads of a model.",
    "migrate": "Turn a command line of mace_run_train into a configuration.",
    "config": "Print a configuration file with all options and their help.",
    "relax": "Relax structures with a model.",
    "md": "Run molecular dynamics with a model.",
    "eos": "Equation of state and bulk modulus of a crystal.",
    "phonons": "Phonons and harmonic free energy of a crystal.",
    "demo": "Train on bundled data, test, run dynamics, in a few minutes.",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command `macejax`. Exits with 0; 1: data or files are wrong; 2: the command line or the configuration."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments or os.environ.get("MACEJAX_DEBUG", "") not in ("", "0")
    if not debug:  # XLA:CPU complains loudly, and wrongly, whenever it loads a program from the cache. Errors still raise.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before jax is imported, which has a default of its own
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no letter for Angstrom is no reason to stop
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    try:
        _app(called)([argument for argument in arguments if argument != "--debug"], prog_name="macejax")
    except Exception as error:  # every error of a command ends here, as a sentence or, where nobody expected it, as a traceback
        from macejax.cli.process import fail

        sys.exit(fail(error, debug))


def _app(called: str | None) -> typer.Typer:
    """The application, in which only the command that is called is more than its line of help."""
    app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback()(_options)
    for name, text in COMMANDS.items():
        if name == called:
            app.command(name)(import_module(f"macejax.cli.{name}").command)
        else:
            app.command(name, help=text)(_stub(text))
    return app


def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error (or set MACEJAX_DEBUG=1).")] = False,
) -> None:
    """MACE force fields in JAX: train, test, simulate."""
    del debug  # taken from the arguments before, for it is accepted after the command as well


def _stub(text: str) -> Callable[[], None]:
    def command() -> None:
        raise AssertionError(f"only listed, never called: {text}")

    return command


if __name__ == "__main__":
    main()
