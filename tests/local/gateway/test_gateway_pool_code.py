"""Archives for pool pods: what is fetched and kept, what travels in the request, what a pod can ask for."""

import asyncio
import hashlib
import io
import random
import zipfile

import pytest
from aiohttp import web

from kappa_core import wire
from kappa_core.agent_config import AgentConfig
from kappa_core.function import ArchiveCode
from kappa_gateway.pods.warm.code import IN_BODY_BYTES, CodeCache
from kappa_gateway.settings import Settings

CONFIG = AgentConfig(function_name="f", code_archive_url="as it was")


def archive(size=100):
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as zipped:
            zipped.writestr("main.py", random.Random(size).randbytes(size))
        return file.getvalue()


class Files:
    """A web server with files, that counts who asks."""

    def __init__(self):
        self.files = {}
        self.asked = []
        self.url = ""

    async def get(self, request):
        name = request.match_info["name"]
        self.asked.append(name)
        content = self.files.get(name)
        return web.Response(status=404) if content is None else web.Response(body=content)

    def add(self, name, content, sha256=None):
        self.files[name] = content
        return ArchiveCode(url=f"{self.url}/{name}", sha256=sha256 or hashlib.sha256(content).hexdigest())


@pytest.fixture
async def files():
    served = Files()
    app = web.Application()
    app.router.add_get("/{name}", served.get)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield served
    await runner.cleanup()


@pytest.fixture
async def make_cache():
    made = []

    def make(**settings):
        how = {"address": "10.0.0.9", "delivery_addresses": "any", **settings}
        made.append(CodeCache(Settings(name="test", **how)))
        return made[-1]

    yield make
    for cache in made:
        await cache.close()


async def fetched(cache, tools):
    await tools.eventually(lambda: not cache._fetching)


async def test_a_small_archive_is_fetched_once_and_travels_in_the_request(files, make_cache, tools):
    cache = make_cache()
    content = archive()
    code = files.add("small.zip", content)
    assert cache.for_pod(code, CONFIG) == (b"", CONFIG), "the first start does not wait: the pod fetches it"
    await fetched(cache, tools)
    assert cache.for_pod(code, CONFIG) == (content, CONFIG)
    assert files.asked == ["small.zip"]


async def test_a_large_one_the_pod_asks_the_gateway_for(files, make_cache, tools):
    cache = make_cache()
    code = files.add("large.zip", archive(IN_BODY_BYTES + 1))
    cache.prefetch(code)
    await fetched(cache, tools)
    body, config = cache.for_pod(code, CONFIG)
    assert body == b""
    assert config.code_archive_copy == f"http://10.0.0.9:8081/v1/code/{code.sha256}"
    assert config.code_archive_url == CONFIG.code_archive_url, "for where the copy cannot be had"


async def test_without_an_address_of_its_own_the_pod_fetches_it_from_where_it_is(files, make_cache, tools):
    cache = make_cache(address="")
    code = files.add("large.zip", archive(IN_BODY_BYTES + 1))
    cache.prefetch(code)
    await fetched(cache, tools)
    assert cache.for_pod(code, CONFIG) == (b"", CONFIG)


@pytest.mark.parametrize("wrong", ["hash", "missing", "too large"])
async def test_what_cannot_be_had_is_left_to_the_pod_and_not_asked_for_again_at_once(files, make_cache, tools, wrong):
    cache = make_cache(code_cache_bytes=1024 * 1024)
    content = archive(300_000 if wrong == "too large" else 100)
    code = files.add("code.zip", content, sha256="0" * 64 if wrong == "hash" else None)
    if wrong == "missing":
        files.files.clear()
    for _ in range(3):
        cache.prefetch(code)
        await fetched(cache, tools)
    assert cache.for_pod(code, CONFIG) == (b"", CONFIG)
    assert cache.get(code.sha256) is None
    assert files.asked == ["code.zip"]


async def test_addresses_that_no_destination_can_be_are_not_dialled(files, make_cache, tools):
    cache = make_cache(delivery_addresses="cluster")
    code = files.add("small.zip", archive())
    cache.prefetch(code)
    await fetched(cache, tools)
    assert files.asked == []
    assert cache.get(code.sha256) is None


async def test_the_internal_port_gives_what_is_kept_to_who_knows_its_hash(gateway, tools):
    content = archive()
    sha256 = hashlib.sha256(content).hexdigest()
    gateway.gateway.warm.code.keep(sha256, content)

    async def get(path):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.internal_port)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return int(head.split()[1]), body

    assert await get(wire.CODE_PATH + sha256) == (200, content)
    assert (await get(wire.CODE_PATH + "0" * 64))[0] == 404
    assert (await get(wire.CODE_PATH))[0] == 404
    assert (await gateway.request("GET", wire.CODE_PATH + sha256)).status == 404, "not on the users' port"
