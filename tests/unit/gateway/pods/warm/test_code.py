"""The cache of archives: what it keeps and drops, and where it sends a pod for what the request does not carry."""

import asyncio
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core.agent_config import AgentConfig
from kappa_core.function import ArchiveCode
from kappa_gateway.pods.warm.code import IN_BODY_BYTES, CodeCache
from kappa_gateway.settings import Settings

SMALL = Settings(code_cache_bytes=10_000)


def archive(url="s3://bucket/a.zip", sha256="0" * 64):
    return ArchiveCode(url=url, sha256=sha256)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 5000), st.booleans()), max_size=30))
def test_it_stays_within_its_bound_and_drops_what_was_used_longest_ago(steps):
    limit = SMALL.code_cache_bytes
    cache = CodeCache(SMALL)
    kept = {}  # the one used last at the end
    for name, size, is_read in steps:
        if is_read:
            assert cache.get(name) == kept.get(name)
            if name in kept:
                kept[name] = kept.pop(name)
        else:
            cache.keep(name, name.encode() * size)
            kept.setdefault(name, name.encode() * size)
            while sum(map(len, kept.values())) > limit:
                del kept[next(iter(kept))]
    assert {name: cache.get(name) for name in "abcdef"} == {name: kept.get(name) for name in "abcdef"}


def test_what_is_larger_than_all_of_it_is_not_kept():
    cache = CodeCache(Settings(code_cache_bytes=100))
    cache.keep("a", b"x" * 100)
    cache.keep("b", b"x" * 101)
    assert (cache.get("a"), cache.get("b")) == (b"x" * 100, None)


@pytest.mark.parametrize(
    ("size", "settings", "in_body", "copy"),
    [
        (IN_BODY_BYTES, {"address": "10.0.0.5", "internal_port": 9001}, True, ""),
        (IN_BODY_BYTES + 1, {"address": "10.0.0.5", "internal_port": 9001}, False, "http://10.0.0.5:9001/v1/code/"),
        (IN_BODY_BYTES + 1, {"address": "fd00::5", "internal_port": 9001}, False, "http://[fd00::5]:9001/v1/code/"),
        (IN_BODY_BYTES + 1, {"address": "", "internal_port": 9001}, False, ""),
        (IN_BODY_BYTES + 1, {"address": "10.0.0.5", "internal_port": -1}, False, ""),
        (None, {"address": "10.0.0.5", "internal_port": 9001}, False, ""),
    ],
)
def test_where_a_pod_gets_it(size, settings, in_body, copy):
    cache = CodeCache(Settings(**settings))
    sha256 = "0" * 64
    if size is not None:
        cache.keep(sha256, b"x" * size)
    content, config = cache.for_pod(archive(), AgentConfig(function_name="hello"))
    assert bool(content) is in_body
    assert config.code_archive_copy == (copy and copy + sha256)


class Served(CodeCache):
    """Downloads from a dict, noting what is asked for."""

    def __init__(self, contents, **settings):
        super().__init__(Settings(**settings))
        self.contents, self.asked = contents, []

    async def _download(self, url):
        self.asked.append(url)
        await asyncio.sleep(1.0)
        if url not in self.contents:
            raise OSError("no such host")
        return self.contents[url]


URL, CONTENT = "https://example.com/a.zip", b"PK"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


async def until_fetched(cache):
    await asyncio.gather(*cache._fetching.values())
    await asyncio.sleep(0)


async def test_it_is_fetched_once_however_often_it_is_asked_for():
    cache = Served({URL: CONTENT})
    for _ in range(3):
        cache.prefetch(archive(URL, SHA256))
    await until_fetched(cache)
    cache.prefetch(archive(URL, SHA256))
    assert (cache.get(SHA256), cache.asked) == (CONTENT, [URL])
    await cache.close()


@pytest.mark.parametrize("contents", [{}, {URL: b"another"}], ids=["away", "another hash"])
async def test_what_cannot_be_had_is_not_asked_for_again_at_once(contents):
    cache = Served(contents)
    for seconds, asked in ((0.0, 1), (50.0, 1), (20.0, 2)):
        await asyncio.sleep(seconds)
        cache.prefetch(archive(URL, SHA256))
        await until_fetched(cache)
        assert (len(cache.asked), cache.get(SHA256)) == (asked, None)
    await cache.close()


@pytest.mark.parametrize(("url", "settings"), [("s3://bucket/a.zip", {}), (URL, {"code_cache_bytes": 0})])
async def test_what_is_not_for_this_cache(url, settings):
    cache = Served({url: CONTENT}, **settings)
    cache.prefetch(archive(url, SHA256))
    await until_fetched(cache)
    assert cache.asked == []


async def test_few_are_fetched_at_a_time():
    urls = [f"https://example.com/{number}" for number in range(5)]
    cache = Served(dict.fromkeys(urls, CONTENT))
    for number, url in enumerate(urls):
        cache.prefetch(archive(url, f"{number:064}"))
    for expected in (2, 4, 5):
        await asyncio.sleep(0.5)
        assert len(cache.asked) == expected
        await asyncio.sleep(0.6)
    await cache.close()
