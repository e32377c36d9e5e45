"""What glibc's heap holds: where a block fits again, and what keeps two freed ones apart."""

import pytest

from lorahub.experiments.estimate.heap import Heap

MB = 1_000_000


def heap(*sizes, **settings):
    found = Heap(**settings)
    for block, size in enumerate(sizes):
        found.come(block, size)
    return found


def test_a_block_does_not_fit_where_one_of_its_size_was_freed():
    same, smaller = heap(MB, MB, MB), heap(MB, MB, MB)
    for found, size in ((same, MB), (smaller, MB - 200)):
        found.go(1)
        found.come(3, size)
    assert smaller.peak < 3.01 * MB
    assert same.peak > 4 * MB


def test_freed_blocks_become_one_but_while_the_graph_grows():
    for growing, peak in ((False, 4), (True, 6)):
        found = Heap()
        if growing:
            found.grow()
        for block in range(4):
            found.come(block, MB)
        found.go(1)
        found.go(2)
        found.come(4, 2 * MB - 200)
        assert found.peak / MB == pytest.approx(peak, rel=0.01)


def test_when_the_graph_has_gone_its_room_is_one():
    found = Heap()
    found.grow()
    for block in range(4):
        found.come(block, MB)
    found.go(1)
    found.go(2)
    found.collect()
    found.come(4, 2 * MB - 200)
    assert found.peak < 4.01 * MB


def test_large_blocks_are_mapped_and_given_back():
    found = heap(40 * MB)
    found.go(0)
    found.come(1, 50 * MB)
    assert 50 * MB <= found.peak < 50.01 * MB
