"""The cache of decoded pages is bounded, and decodes a page once for all waiting requests."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

from cytomask.web.cache import Cache, Opened
from cytomask.web.raster import raster_of


@dataclass(frozen=True)
class Thing:
    name: str
    nbytes: int = 10


def test_the_cache_keeps_the_last_used_items() -> None:
    cache, made = Cache(20), []

    def get(name: str) -> Thing:
        def make() -> Thing:
            made.append(name)
            return Thing(name)

        return cache.get(name, make)

    for name in "abacab":
        assert get(name).name == name
    assert made == ["a", "b", "c", "b"]


def test_an_item_larger_than_the_cache_is_returned_uncached() -> None:
    cache = Cache(5)
    assert cache.get("a", lambda: Thing("a")).name == "a"


def test_many_who_ask_at_once_wait_for_one_decoding() -> None:
    cache, gate, made = Cache(100), threading.Event(), []

    def make() -> Thing:
        gate.wait(5)
        made.append(1)
        return Thing("a")

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(cache.get, "a", make) for _ in range(8)]
        gate.set()
        assert {each.result().name for each in asked} == {"a"}
    assert made == [1]


def test_a_fault_is_raised_and_not_cached() -> None:
    cache = Cache(100)

    def fail() -> Thing:
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        cache.get("a", fail)
    assert cache.get("a", lambda: Thing("a")).name == "a"


def test_a_cached_raster_is_found_by_its_name() -> None:
    opened, raster = Opened(), raster_of(np.zeros((2, 2), np.uint8), "uint8")
    name = opened.add(raster)
    assert opened.find(name) is raster
    assert opened.find("guess") is None
    del raster
    assert opened.find(name) is None
