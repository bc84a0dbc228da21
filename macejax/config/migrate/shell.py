"""Words of a shell script: as much of the shell's grammar as a call of mace_run_train takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from macejax.config.section import ConfigError

PROGRAM = re.compile(r"(.*/)?(mace_run_train|run_train\.py)\)?|mace\.cli\.run_train")
EXPANSION = "\ue000"  # stands for a $ or ` that the shell would act upon
_TOKEN = re.compile(
    r"""(?P<join>\\\r?\n)|(?P<escape>\\.)|'(?P<single>[^']*)'|"(?P<double>(?:[^"\\]|\\.)*)"|(?P<end>[\n;&|]+)"""
    r"""|(?P<redirect>\d*&?[<>]+&?\s*)|(?P<blank>[ \t\r]+)|(?P<comment>(?:(?<=[\s;&|])|\A)\#[^\n]*)|(?P<plain>.)""",
    re.DOTALL | re.VERBOSE,
)


def find_command(script: str) -> list[str] | None:
    """The arguments of the one call of mace_run_train in a script; None where there is none.

    Raises:
      ConfigError: there are several calls, or an argument is left to the shell, such as $NAME; a quotation mark is not closed.
    """
    calls = [words[place + 1 :] for words in _commands(script) if (place := program_place(words)) is not None]
    calls = [words for words in calls if words and words[0].startswith("--")]  # others, such as `which mace_run_train`, train nothing
    if len(calls) > 1:
        raise ConfigError(f"there are {len(calls)} calls of mace_run_train: leave one of them in the file.")
    for word in calls[0] if calls else []:
        if EXPANSION in word:
            call = word.replace(EXPANSION, "$")
            raise ConfigError(f"{call}: put the value in its place, or let the shell do so: macejax migrate -- mace_run_train ...")
    return calls[0] if calls else None


def program_place(words: Sequence[str]) -> int | None:
    """Where in a command mace_run_train stands, in any of the ways to call it."""
    return next((place for place, word in enumerate(words) if PROGRAM.fullmatch(word.replace(EXPANSION, "$"))), None)


def _commands(script: str) -> Iterator[list[str]]:
    """The words of each command, without redirections and comments."""
    words: list[str] = []
    word: str | None = None
    dropped = False  # the next word is the file of a redirection
    for token in _TOKEN.finditer(script + "\n"):
        kind, text = token.lastgroup, token.group()
        if kind in ("join", "comment"):
            continue
        # A redirection can only begin a word: a<b is plain here, for such text is no file in practice.
        if kind in ("blank", "end") or (kind == "redirect" and word is None):
            if word is not None and not dropped:
                words.append(word)
            dropped = kind == "redirect" or (dropped and word is None and kind == "blank")
            word = None
            if kind == "end":
                yield words
                words = []
            continue
        if text in ("'", '"'):
            raise ConfigError("a quotation mark of the script is not closed.")
        word = (word or "") + _value(kind, text, token.group(kind) if kind in ("single", "double") else text)


def _value(kind: str | None, text: str, inside: str) -> str:
    if kind == "single":
        return inside
    if kind == "double":
        return re.sub(r'\\([$`"\\])|\\\r?\n|([$`])', lambda m: EXPANSION if m[2] else (m[1] or ""), inside)
    if kind == "escape":
        return text[1:]
    return EXPANSION if text in "$`" else text
