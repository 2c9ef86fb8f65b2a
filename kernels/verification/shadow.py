"""Shadow memory of a kernel launch: place, writers and bytes moved of each argument."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NoReturn

import numpy as np
import torch
from torch import Tensor

SECTOR_BYTES = 32  # what a GPU's L2 moves at least
NOBODY, ATOMICS = 0, -1  # instead of the turn of the program that wrote an element

Kind = Literal["load", "store", "atomic"]


class KernelFault(Exception):
    """A kernel touched memory as it must not; the message names kernel, program, argument and elements."""


@dataclass(frozen=True)
class Traffic:
    """Bytes that one kernel moved to and from one argument, over all its launches.

    Sectors are counted once within one access of one program: a perfect cache inside an access, none between accesses.
    """

    kernel: str
    argument: str
    requested_bytes: int  # by active lanes
    loaded_bytes: int  # of sectors
    stored_bytes: int  # of sectors
    distinct_bytes: int  # of elements touched, each once a launch: the least that must move
    lanes: int
    active_lanes: int

    @property
    def sector_bytes(self) -> int:
        return self.loaded_bytes + self.stored_bytes

    @property
    def ratio(self) -> float:
        """Bytes moved per byte that must move."""
        return self.sector_bytes / self.distinct_bytes

    @property
    def active_share(self) -> float:
        return self.active_lanes / self.lanes


@dataclass
class Launch:
    """One kernel launch: its arguments by window, and its programs in the order in which they run."""

    kernel: str
    arguments: "dict[int, Argument]" = field(default_factory=dict)
    grid: tuple[int, ...] = (1, 1, 1)
    programs: list[tuple[int, ...]] = field(default_factory=list)
    turn: int = 0  # of the program that runs, from 1

    def fail(self, what: str) -> NoReturn:
        raise KernelFault(f"{self.kernel}, program {self.programs[self.turn - 1]}: {what}")


class Argument:
    """One tensor of a launch, at a made-up address, and the state of each of its elements."""

    def __init__(self, launch: Launch, name: str, tensor: Tensor, window: int) -> None:
        self.launch = launch
        self.name = name
        self.tensor = tensor
        self.is_output = name.endswith("_out")
        self.itemsize = tensor.element_size()
        self.base = window + tensor.storage_offset() * self.itemsize  # storages start on a sector, as on a GPU
        spans = [(size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
        self.extent = 1 + sum(spans) if tensor.numel() else 0  # elements from the first to the last
        self.gaps = None if tensor.is_contiguous() else self._find_gaps()
        self.touched = np.zeros(self.extent, dtype=bool)
        self.writer = np.zeros(self.extent if self.is_output else 0, dtype=np.int32)  # a turn, NOBODY or ATOMICS
        self.moved: Counter[str] = Counter(
            requested_bytes=0, loaded_bytes=0, stored_bytes=0, distinct_bytes=0, lanes=0, active_lanes=0
        )

    def _find_gaps(self) -> np.ndarray:
        """(extent,) true where a tensor that is not contiguous leaves an element of its storage out."""
        gaps = np.ones(self.extent, dtype=bool)
        places = torch.arange(self.extent).as_strided(self.tensor.shape, self.tensor.stride())
        gaps[places.flatten().numpy()] = False
        return gaps

    def shares_memory(self, other: "Argument") -> bool:
        """True if a byte belongs to both, whatever their dtypes. Two columns of one tensor share none."""
        start = max(self.tensor.data_ptr(), other.tensor.data_ptr())
        end = min(argument.tensor.data_ptr() + argument.extent * argument.itemsize for argument in (self, other))
        return start < end and bool((self._covers(start, end) & other._covers(start, end)).any())

    def _covers(self, start: int, end: int) -> np.ndarray:
        """(end − start,) true where a byte between these real addresses is part of an element."""
        covered = np.ones(self.extent, dtype=bool) if self.gaps is None else ~self.gaps
        first = self.tensor.data_ptr()
        return np.repeat(covered, self.itemsize)[start - first : end - first]

    def access(self, kind: Kind, addresses: np.ndarray, itemsize: int) -> None:
        """Check and count one load, store or atomic of the program whose turn it is; addresses: (active lanes,) int64."""
        elements = self._elements(kind, addresses, itemsize)
        if kind != "load" and not self.is_output:
            self._fail(kind, elements, "but only parameters named *_out may be written")
        if self.is_output:
            self._check_order(kind, elements)
        self._count(kind, addresses.size, itemsize, elements)

    def _elements(self, kind: Kind, addresses: np.ndarray, itemsize: int) -> np.ndarray:
        """The elements touched, each once, in order. A pointer cast in the kernel may be wider, as bytes read by fours."""
        if itemsize % self.itemsize or (addresses % itemsize).any():
            self.launch.fail(
                f"a {kind} of {itemsize} bytes at {self.name} does not cover whole, aligned elements of {self.itemsize}"
            )
        first = (addresses - self.base) // self.itemsize
        every = (first[:, None] + np.arange(itemsize // self.itemsize)).ravel()
        elements = distinct(every)
        outside = elements[(elements < 0) | (elements >= self.extent)]
        if outside.size:
            self._fail(kind, outside, f"out of bounds: it has {self.extent} elements")
        if self.gaps is not None and self.gaps[elements].any():
            self._fail(kind, elements[self.gaps[elements]], "where its strides leave a gap")
        if kind == "store" and elements.size < every.size:
            every.sort()
            self._fail(kind, distinct(every[1:][every[1:] == every[:-1]]), "more than once in one store")
        return elements

    def _check_order(self, kind: Kind, elements: np.ndarray) -> None:
        """An element belongs to the program that stored it or to atomics; else the result depends on which program comes first."""
        writers, turn = self.writer[elements], self.launch.turn
        allowed = writers == turn
        if kind != "load":
            allowed |= writers == NOBODY
        if kind == "atomic":
            allowed |= writers == ATOMICS
        if not allowed.all():
            writer = writers[~allowed][0]
            whose = elements[writers == writer]
            if writer == NOBODY:
                self._fail(kind, whose, "which nobody has written")
            by = "atomics" if writer == ATOMICS else f"program {self.launch.programs[writer - 1]}"
            self._fail(kind, whose, f"which {by} wrote: a race between programs")
        if kind != "load":
            self.writer[elements[writers == NOBODY]] = turn if kind == "store" else ATOMICS

    def _count(self, kind: Kind, active_lanes: int, itemsize: int, elements: np.ndarray) -> None:
        sectors = distinct((self.base + elements * self.itemsize) // SECTOR_BYTES).size
        self.moved["requested_bytes"] += active_lanes * itemsize
        self.moved["active_lanes"] += active_lanes
        self.moved["loaded_bytes"] += 0 if kind == "store" else sectors * SECTOR_BYTES
        self.moved["stored_bytes"] += 0 if kind == "load" else sectors * SECTOR_BYTES
        self.moved["distinct_bytes"] += int(np.count_nonzero(~self.touched[elements])) * self.itemsize
        self.touched[elements] = True

    def require_complete(self) -> None:
        """Raise KernelFault where an output's element was never written."""
        unwritten = self.writer == NOBODY
        if self.gaps is not None:
            unwritten &= ~self.gaps
        missing = np.flatnonzero(unwritten)
        if missing.size:
            raise KernelFault(
                f"{self.launch.kernel}: {missing.size} of {self.tensor.numel()} elements of {self.name} "
                f"were never written: {_shown(missing)}"
            )

    def _fail(self, kind: Kind, elements: np.ndarray, why: str) -> NoReturn:
        self.launch.fail(f"{kind} at {self.name}[{_shown(elements)}], {why}")


def distinct(values: np.ndarray) -> np.ndarray:
    """(values that differ,) in order. Faster than numpy.unique, which hashes, as addresses are mostly in order already."""
    ordered = np.sort(values)
    is_first = np.ones(ordered.size, dtype=bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return ordered[is_first]


def _shown(elements: np.ndarray) -> str:
    first = ", ".join(str(element) for element in elements[:4])
    return first if elements.size <= 4 else f"{first} and {elements.size - 4} more"
