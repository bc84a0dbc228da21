"""Files -> structures -> graphs -> batches. Numpy and float64; importing this imports neither jax nor ASE."""

from macejax.data.batch import Capacity, batch, capacity_for
from macejax.data.convert import from_graphs_tuple, to_graphs_tuple
from macejax.data.graph import Graph, build_graph, build_graphs
from macejax.data.labels import Keys
from macejax.data.loader import Loader, Step
from macejax.data.neighbors import neighbors
from macejax.data.order import order
from macejax.data.pack import pack_all
from macejax.data.read import from_atoms, read, to_atoms
from macejax.data.species import elements_of
from macejax.data.statistics import (
    average_neighbors,
    e0_list,
    e0s_average,
    e0s_from_isolated,
    e0s_from_table,
    energy_scale,
    energy_shift,
    split_isolated,
)
from macejax.data.structure import DataError, Structure
from macejax.data.write import write

__all__ = [
    "Capacity",
    "DataError",
    "Graph",
    "Keys",
    "Loader",
    "Step",
    "Structure",
    "average_neighbors",
    "batch",
    "build_graph",
    "build_graphs",
    "capacity_for",
    "e0_list",
    "e0s_average",
    "e0s_from_isolated",
    "e0s_from_table",
    "elements_of",
    "energy_scale",
    "energy_shift",
    "from_atoms",
    "from_graphs_tuple",
    "neighbors",
    "order",
    "pack_all",
    "read",
    "split_isolated",
    "to_atoms",
    "to_graphs_tuple",
    "write",
]
