"""Deliveries to real web servers: good ones, slow ones, broken ones, and ones that must not be called at all."""

import asyncio
import base64
import hashlib
import hmac
import os
import ssl
import sys
import time
from pathlib import Path

import http_receiver
import pytest
from http_receiver import answer, delivery

from kappa_gateway.events.destinations.failure import DeliveryFailed
from kappa_gateway.events.destinations.http import seconds_asked_for


async def failure(deliverer, url: str, **settings) -> DeliveryFailed:
    with pytest.raises(DeliveryFailed) as failed:
        await deliverer(**settings).deliver(delivery(http={"url": url}))
    return failed.value


# -- what is sent


async def test_a_record_comes_as_a_cloud_event(receive, deliverer):
    receiver = await receive(answer(200))
    event = delivery(b'{"version": "1.0", "n": 1.10}', http={"url": f"{receiver.url}?team=a&x=%20y"})
    await deliverer().deliver(event)
    (request,) = receiver.requests
    assert request.line == "POST /hook?team=a&x=%20y HTTP/1.1"
    assert request.body == b'{"version": "1.0", "n": 1.10}'
    sent = {name: value for name, value in request.headers.items() if name.startswith("ce-") or name == "content-type"}
    assert sent == {
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": event.id,
        "ce-source": "/v1/namespaces/team-a/functions/resize",
        "ce-type": "run.kappa.event.failed",
        "ce-subject": "c0ffee",
        "ce-time": "2023-11-14T22:13:20.000Z",
    }
    assert request.headers["user-agent"].startswith("Kappa/")
    assert "cookie" not in request.headers


async def test_it_is_signed_for_its_namespace(receive, deliverer):
    """Verified here by hand, with nothing of Kappa's code."""
    receiver = await receive(answer(200))
    event = delivery(http={"url": receiver.url})
    await deliverer(signing_key="the-key").deliver(event)
    (request,) = receiver.requests
    assert request.headers["webhook-id"] == event.id
    sent_at = request.headers["webhook-timestamp"]
    assert abs(time.time() - int(sent_at)) < 60
    key = hmac.new(b"the-key", b"kappa-webhook/team-a", hashlib.sha256).digest()
    content = f"{event.id}.{sent_at}.".encode() + request.body
    expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"] == f"v1,{expected}"


async def test_without_a_key_it_is_not_signed(receive, deliverer):
    receiver = await receive(answer(204))
    await deliverer(signing_key="").deliver(delivery(http={"url": receiver.url}))
    assert "webhook-signature" not in receiver.requests[0].headers


async def test_a_large_record_arrives_whole(receive, deliverer):
    receiver = await receive(answer(200))
    payload = b'"' + b"x" * 3_000_000 + b'"'
    await deliverer().deliver(delivery(payload, http={"url": receiver.url}))
    assert receiver.requests[0].body == payload


async def test_connections_are_used_again_and_cookies_are_not_kept(receive, deliverer):
    receiver = await receive(answer(200, b"thanks", Set_Cookie="a=b"))
    sender = deliverer()
    for _ in range(5):
        await sender.deliver(delivery(http={"url": receiver.url}))
    assert (len(receiver.requests), receiver.connections) == (5, 1)
    assert all("cookie" not in request.headers for request in receiver.requests)


async def test_a_connection_that_was_closed_meanwhile_is_no_failure(receive, deliverer):
    async def take_and_close(writer):
        writer.write(answer(200))
        await writer.drain()

    receiver = await receive(take_and_close)
    sender = deliverer()
    for _ in range(3):
        await sender.deliver(delivery(http={"url": receiver.url}))
    assert len(receiver.requests) == 3


async def test_many_at_once_do_not_wait_for_each_other(receive, deliverer):
    arrived = asyncio.Semaphore(0)
    everybody = asyncio.Event()

    async def wait_for_all(writer):
        arrived.release()
        await everybody.wait()
        writer.write(answer(200))

    receiver = await receive(wait_for_all)
    sender = deliverer()
    async with asyncio.TaskGroup() as group:
        for _ in range(50):
            group.create_task(sender.deliver(delivery(http={"url": receiver.url})))
        async with asyncio.timeout(10):
            for _ in range(50):
                await arrived.acquire()
        everybody.set()
    assert len(receiver.requests) == 50


# -- what the answer means


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_any_2xx_takes_it(receive, deliverer, status):
    receiver = await receive(answer(status))
    await deliverer().deliver(delivery(http={"url": receiver.url}))
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 407, 408, 409, 421, 423, 425, 429, 500, 501, 502, 503, 504, 599])
async def test_some_refusals_are_temporary(receive, deliverer, status):
    receiver = await receive(answer(status, b"come\nback \x07later"))
    failed = await failure(deliverer, receiver.url)
    assert failed.retryable
    assert failed.message == f"{receiver.url} answered {status}: come back later"
    assert failed.error() == {"errorType": "Kappa.DeliveryFailed", "errorMessage": failed.message}


@pytest.mark.parametrize("status", [400, 402, 405, 406, 410, 411, 413, 414, 415, 418, 422, 431, 451])
async def test_other_answers_are_permanent_failures(receive, deliverer, status):
    receiver = await receive(answer(status))
    failed = await failure(deliverer, receiver.url)
    assert not failed.retryable
    assert failed.message == f"{receiver.url} answered {status}"


@pytest.mark.parametrize(("status", "passes"), [(301, False), (308, False), (302, True), (303, True), (307, True)])
async def test_redirects_are_not_followed(receive, deliverer, status, passes):
    elsewhere = await receive(answer(200))
    receiver = await receive(answer(status, Location=elsewhere.url))
    failed = await failure(deliverer, receiver.url)
    assert failed.retryable is passes
    assert elsewhere.url in failed.message
    assert elsewhere.requests == []


async def test_a_receiver_that_recovers_gets_it_the_next_time(receive, deliverer):
    receiver = await receive(answer(500), answer(200))
    event, sender = delivery(http={"url": receiver.url}), deliverer()
    with pytest.raises(DeliveryFailed, match="answered 500"):
        await sender.deliver(event)
    await sender.deliver(event)
    first, second = (request.headers for request in receiver.requests)
    assert first["webhook-id"] == second["webhook-id"] == event.id


async def test_retry_after_is_heeded(receive, deliverer):
    receiver = await receive(answer(429, Retry_After="120"), answer(503, Retry_After="soon"), answer(500))
    assert [(await failure(deliverer, receiver.url)).retry_after for _ in range(3)] == [120, None, None]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0),
        (" 7 ", 7),
        ("999999999", 3600),
        ("9" * 400, 3600),
        ("-1", None),
        ("1.5", None),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60),
        ("Tue, 14 Nov 2023 22:13:20 GMT", 0),
        ("Tue, 14 Nov 2000 22:13:20 GMT", 0),
        ("Tue, 14 Nov 2099 22:13:20 GMT", 3600),
        ("Tue, 14 Nov 2023 22:14:20 -0000", 60),
        ("Tue, 99 Nov 2023", None),
        ("²", None),
    ],
)
def test_what_retry_after_says(text, seconds):
    assert seconds_asked_for(text, 1_700_000_000.0) == seconds


async def test_of_a_huge_refusal_only_the_beginning_is_read(receive, deliverer):
    sent = 0

    async def flood(writer):
        nonlocal sent
        writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            writer.write(b"no! " * 25_000)
            await writer.drain()
            sent += 100_000

    receiver = await receive(flood)
    failed = await failure(deliverer, receiver.url)
    assert len(failed.message) < 400
    assert sent < 50_000_000


async def test_a_huge_answer_that_takes_it_is_not_read(receive, deliverer):
    async def flood(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n")
            await writer.drain()

    receiver = await receive(flood)
    began = time.monotonic()
    await deliverer().deliver(delivery(http={"url": receiver.url}))
    assert time.monotonic() - began < 5


async def test_compressed_refusals_are_not_unpacked(receive, deliverer):
    receiver = await receive(answer(500, b"\x1f\x8b" + b"\0" * 100, Content_Encoding="gzip"))
    assert (await failure(deliverer, receiver.url)).message == f"{receiver.url} answered 500"


# -- no answer, or none that can be used


async def test_a_receiver_that_does_not_answer(receive, deliverer):
    async def hang(writer):
        await asyncio.Event().wait()

    receiver = await receive(hang)
    failed = await failure(deliverer, receiver.url, delivery_timeout=0.2)
    assert failed.retryable
    assert failed.message == f"{receiver.url} did not answer within 0.2 s (delivery_timeout)"


async def test_a_receiver_that_hangs_in_its_head(receive, deliverer):
    async def hang(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
        await writer.drain()
        await asyncio.Event().wait()

    receiver = await receive(hang)
    assert "did not answer within" in (await failure(deliverer, receiver.url, delivery_timeout=0.2)).message


async def test_a_receiver_that_takes_it_and_hangs_in_its_body_has_taken_it(receive, deliverer):
    async def hang(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal")
        await writer.drain()
        await asyncio.Event().wait()

    receiver = await receive(hang)
    sender = deliverer()
    await sender.deliver(delivery(http={"url": receiver.url}))
    await sender.deliver(delivery(http={"url": receiver.url}))
    assert receiver.connections == 2


async def test_a_receiver_that_hangs_in_a_refusal(receive, deliverer):
    async def hang(writer):
        writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 10\r\n\r\n")
        await writer.drain()
        await asyncio.Event().wait()

    receiver = await receive(hang)
    assert (await failure(deliverer, receiver.url)).message == f"{receiver.url} answered 500"


async def test_a_receiver_that_closes_without_an_answer(receive, deliverer):
    async def close(writer):
        pass

    receiver = await receive(close)
    failed = await failure(deliverer, receiver.url)
    assert failed.retryable
    assert failed.message == f"{receiver.url} closed the connection without an answer"


@pytest.mark.parametrize(
    "junk",
    [b"220 smtp.example.com ESMTP\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x0a\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n",
     b"HTTP/1.1 500 No\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"],
    ids=["smtp", "tls", "status", "header"],
)  # fmt: skip
async def test_a_receiver_that_does_not_speak_http(receive, deliverer, junk):
    receiver = await receive(junk)
    failed = await failure(deliverer, receiver.url)
    assert failed.retryable
    assert failed.message.startswith(f"{receiver.url} answered with something other than HTTP")


async def test_a_receiver_that_is_not_there(receive, deliverer):
    async with asyncio.timeout(10):
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        failed = await failure(deliverer, f"http://127.0.0.1:{port}/hook")
    assert failed.retryable
    assert failed.message.startswith(f"http://127.0.0.1:{port}/hook cannot be reached")
    assert "refused" in failed.message.lower()


async def test_a_name_that_nobody_knows(deliverer):
    failed = await failure(deliverer, "http://receiver.invalid/hook")
    assert failed.retryable
    assert failed.message.startswith("http://receiver.invalid/hook cannot be reached: no address is known for its name")


async def test_a_certificate_that_nobody_signed(receive, deliverer, own_certificate: tuple[Path, Path]):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*own_certificate)
    receiver = await receive(answer(200), tls=context)
    failed = await failure(deliverer, receiver.url)
    assert failed.retryable
    assert "no certificate or encryption that the gateway trusts: self-signed certificate" in failed.message
    assert receiver.requests == []


async def test_an_authority_of_ones_own(receive, own_certificate: tuple[Path, Path]):
    """As the page says: by SSL_CERT_FILE, which is read once, so in a process of its own."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*own_certificate)
    receiver = await receive(answer(200), tls=context)
    program = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from http_receiver import delivery
from kappa_gateway.events.destinations.deliverer import Deliverer
from kappa_gateway.settings import Settings

async def main():
    async with Deliverer(Settings(delivery_addresses="any"), None) as deliverer:
        await deliverer.deliver(delivery(http={"url": sys.argv[1]}))

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, receiver.url, str(Path(http_receiver.__file__).parent),
        env={**os.environ, "SSL_CERT_FILE": str(own_certificate[0])},
    )  # fmt: skip
    assert await process.wait() == 0
    assert len(receiver.requests) == 1


async def test_a_server_without_encryption(deliverer):
    async def complain(_, writer):
        writer.write(answer(400, b"speak HTTP"))
        writer.close()

    server = await asyncio.start_server(complain, "127.0.0.1", 0)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        failed = await failure(deliverer, url)
    assert failed.retryable
    assert "no certificate or encryption that the gateway trusts" in failed.message


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/", "http://[::::1]/", "http://a..b/"])
async def test_an_address_that_is_not_a_web_address(deliverer, url):
    failed = await failure(deliverer, url)
    assert not failed.retryable
    assert failed.message.startswith(f"{url} is not a web address that can be called")


async def test_a_query_is_not_in_the_message(receive, deliverer):
    receiver = await receive(answer(500))
    failed = await failure(deliverer, f"{receiver.url}?token=secret")
    assert "secret" not in failed.message


# -- what must not be called


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0x7f.1"],
)
async def test_the_gateway_itself_is_not_called(receive, deliverer, host):
    receiver = await receive(answer(200))
    port = receiver.url.rpartition(":")[2]
    failed = await failure(deliverer, f"http://{host}:{port}", delivery_addresses="cluster")
    assert receiver.requests == []
    assert not failed.retryable
    assert "the gateway itself" in failed.message or "not a canonical IPv4 address" in failed.message


async def test_a_private_address_is_not_called_where_only_public_ones_may_be(receive, deliverer):
    failed = await failure(deliverer, "http://10.11.12.13/", delivery_addresses="public")
    assert not failed.retryable
    assert "is not public" in failed.message


@pytest.mark.parametrize("reach", ["any", "cluster", "public"])
async def test_metadata_services_are_never_called(deliverer, reach):
    failed = await failure(deliverer, "http://169.254.169.254/latest/meta-data", delivery_addresses=reach)
    assert not failed.retryable
    assert "metadata" in failed.message


async def test_a_deliverer_that_is_closed_leaves_nothing_open(receive, deliverer):
    receiver = await receive(answer(200))
    sender = deliverer()
    await sender.deliver(delivery(http={"url": receiver.url}))
    await sender.close()
    await sender.close()
    with pytest.raises(DeliveryFailed):
        await sender.deliver(delivery(http={"url": receiver.url}))


async def test_cancelling_a_delivery_lets_go_of_its_connection(receive, deliverer):
    reached = asyncio.Event()

    async def hang(writer):
        reached.set()
        await asyncio.Event().wait()

    receiver = await receive(hang)
    task = asyncio.create_task(deliverer().deliver(delivery(http={"url": receiver.url})))
    async with asyncio.timeout(10):
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_delivery_that_cannot_be_read_is_given_up(deliverer):
    with pytest.raises(DeliveryFailed, match="no destination that this gateway knows") as failed:
        await deliverer().deliver(delivery(carrier={"pigeon": 1}))
    assert not failed.value.retryable


async def test_a_receiver_that_answers_before_it_has_read_everything_has_taken_it(deliverer):
    over = asyncio.Event()

    async def take_early(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(202))
        await over.wait()
        writer.close()

    server = await asyncio.start_server(take_early, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        await deliverer().deliver(delivery(b"x" * 20_000_000, http={"url": url}))
        over.set()
