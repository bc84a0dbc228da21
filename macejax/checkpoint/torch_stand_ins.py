"""What stands in a model file of mace-torch for the classes of torch, e3nn, mace and numpy: it keeps what it is given, no more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from macejax.checkpoint.torch_basis import TorchImportError


class Tensor(np.ndarray):
    """An array that answers what `from_torch` asks of a tensor."""

    def detach(self) -> Tensor:
        return self

    cpu = detach

    def numpy(self) -> np.ndarray:
        return np.asarray(self)

    def numel(self) -> int:
        return self.size


class Parameter(Tensor):
    """A tensor that is trained."""


class Module:
    """Stands in for an object of any class of mace, e3nn or torch.nn: keeps its attributes, and finds parameters, buffers and submodules
    where torch keeps them.
    """

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        self.__dict__.update(attributes, _arguments=arguments)

    def __new__(cls, *arguments: Any, **attributes: Any) -> Module:
        del arguments, attributes
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.__dict__.update(part)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            for kind in ("_parameters", "_buffers", "_modules"):
                found = self.__dict__.get(kind)
                if isinstance(found, dict) and name in found:
                    return found[name]
        raise AttributeError(name)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __iter__(self) -> Iterator[Any]:
        """Members of a list of modules or of parameters, which are named by numbers."""
        members = self._parts("_modules") | self._parts("_parameters") | self.__dict__
        return iter([members[name] for name in sorted((name for name in members if str(name).isdigit()), key=int)])

    def __getitem__(self, index: int) -> Any:
        return list(self)[index]

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers by name."""
        return dict(self._arrays(("_parameters", "_buffers"), ""))

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        return self._arrays(("_parameters",), "")

    def _arrays(self, kinds: tuple[str, ...], prefix: str) -> Iterator[tuple[str, Tensor]]:
        for kind in kinds:
            yield from ((prefix + name, x) for name, x in self._parts(kind).items() if isinstance(x, Tensor))
        yield from ((prefix + name, x) for name, x in self.__dict__.items() if isinstance(x, Parameter))  # a newer list of parameters
        for name, module in self._parts("_modules").items():
            if isinstance(module, Module):
                yield from module._arrays(kinds, f"{prefix}{name}.")

    def _parts(self, kind: str) -> dict[str, Any]:
        found = self.__dict__.get(kind)
        return found if isinstance(found, dict) else {}


class Irreps(tuple):
    """Irreps, as e3nn pickles them: pairs (multiplicity, irrep)."""

    def __str__(self) -> str:
        return "+".join(f"{multiplicity}x{irrep}" for multiplicity, irrep in self)

    @property
    def dim(self) -> int:
        return sum(multiplicity * (2 * irrep[0] + 1) for multiplicity, irrep in self)


class Irrep(tuple):
    """An irrep, as e3nn pickles it: (degree, parity)."""

    def __str__(self) -> str:
        return f"{self[0]}{'e' if self[1] == 1 else 'o'}"


class Pair(tuple):
    """A multiplicity with its irrep."""


class Named(tuple):
    """A named tuple, of which the names are not needed."""

    def __new__(cls, *fields: Any) -> Named:
        return super().__new__(cls, fields)


class TorchFunctions(Module):
    """Stands in for the class of which torch's functions in C are methods."""


class NumpyType:
    """Stands in for numpy.dtype: numbers alone."""

    def __init__(self, name: str, *_: Any) -> None:
        self.dtype = np.dtype(name)
        if self.dtype.kind not in "biuf":
            raise TorchImportError(f"the file holds numbers of type {name!r}, which no model of mace-torch has.")

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


def numpy_scalar(kind: NumpyType, content: bytes) -> np.generic:
    """A number as numpy pickles it."""
    return np.frombuffer(content, kind.dtype, 1)[0]
