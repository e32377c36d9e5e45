"""How much memory glibc's heap holds for the blocks that a training asks for: more than the blocks themselves.

In: blocks that come and go. Out: the most bytes that the process holds for them. What is freed stays with the process
and is handed out again only where a request fits, and torch's requests often do not:

- torch asks for addresses that 64 divides. glibc then looks for 112 bytes more than the block takes, so that a block is
  not put where one of the same size was freed (malloc.c, _int_memalign: size + alignment + the smallest chunk).
- While the graph of the backward pass grows, two freed blocks beside each other often do not become one. Here something
  stays behind every block then, and behind every second one where layers are computed again. This rule is fitted to
  measurements, not derived: docs/estimate.md says on what, and how well it holds elsewhere.

Of the free chunks the smallest that is large enough is taken, then the end of the heap. A block from 32 MiB on that
fits nowhere is mapped by itself and given back at once (DEFAULT_MMAP_THRESHOLD_MAX, which the threshold soon reaches).
"""

import bisect

_MORE = 112
_MAPPED_FROM = 32 << 20
_KEPT_AT_THE_END = 2 * _MAPPED_FROM  # M_TRIM_THRESHOLD, twice the above


class Heap:
    """Chunks of memory by address. `peak` is the most that was held, in bytes.

    While the graph grows, a wall stands behind the last of every `blocks_a_wall` blocks.
    """

    def __init__(self, blocks_a_wall: int = 1) -> None:
        self.blocks_a_wall, self._growing = blocks_a_wall, False
        self.peak = 0
        self._grown = 0
        self._top = self._touched = self._mapped = 0
        self._places: dict[int, tuple[int | None, int]] = {}
        self._free: dict[int, int] = {}  # start -> size
        self._ends: dict[int, int] = {}  # end -> start
        self._sizes: list[tuple[int, int]] = []  # (size, start), sorted
        self._walls: set[int] = set()  # addresses across which nothing is merged

    def come(self, block: int, size: int) -> None:
        """Place a block."""
        chunk = -(-(size + 16) // 16) * 16
        place = bisect.bisect_left(self._sizes, (chunk + _MORE, -1))
        start: int | None
        if place < len(self._sizes):
            start = self._sizes[place][1]
            rest = self._take(start) - chunk
            if rest:
                self._put(start + chunk, rest)
        elif chunk < _MAPPED_FROM or self._top + chunk + _MORE <= self._touched:
            start = self._top
            self._top += chunk
            self._touched = max(self._touched, self._top)
        else:
            start = None
            self._mapped += chunk
        self._places[block] = start, chunk
        if start is not None and self._growing:
            self._grown += 1
            if self._grown % self.blocks_a_wall == 0:
                self._walls.add(start + chunk)
        self.peak = max(self.peak, self._touched + self._mapped)

    def go(self, block: int) -> None:
        """Free a block."""
        start, chunk = self._places.pop(block)
        if start is None:
            self._mapped -= chunk
        else:
            self._merge(start, chunk)

    def grow(self) -> None:
        """A forward pass begins."""
        self._growing = True

    def collect(self) -> None:
        """The backward pass begins: walls go, and what lies beside each other is merged."""
        self._growing = False
        self._walls.clear()
        chunks, self._free, self._ends, self._sizes = self._free, {}, {}, []
        for start, size in chunks.items():
            self._merge(start, size)

    def _merge(self, start: int, size: int) -> None:
        end = start + size
        if start in self._ends and start not in self._walls:
            start = self._ends[start]
            self._take(start)
        if end in self._free and end not in self._walls:
            end += self._take(end)
        if end == self._top and end not in self._walls:
            self._top = start
            if self._touched - self._top > _KEPT_AT_THE_END:
                self._touched = self._top
        else:
            self._put(start, end - start)

    def _put(self, start: int, size: int) -> None:
        self._free[start], self._ends[start + size] = size, start
        bisect.insort(self._sizes, (size, start))

    def _take(self, start: int) -> int:
        size = self._free.pop(start)
        del self._ends[start + size]
        del self._sizes[bisect.bisect_left(self._sizes, (size, start))]
        return size
