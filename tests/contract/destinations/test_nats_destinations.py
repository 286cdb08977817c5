"""Deliveries to the subjects of a real NATS server, with a JetStream stream that listens and without."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import nats
import pytest
from http_receiver import delivery
from nats.aio.client import Client
from nats_server import NatsServer
from waiting import eventually

from kappa_gateway.events.destinations.deliverer import Deliverer
from kappa_gateway.events.destinations.failure import DeliveryFailed
from kappa_gateway.queue.jetstream.queue import JetStreamQueue
from kappa_gateway.settings import Settings

PREFIX = "kappa-test"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    running = NatsServer(tmp_path_factory.mktemp("nats"), {"max_payload": 1024 * 1024})
    running.start()
    yield running
    running.stop()


@pytest.fixture
async def publisher(server: NatsServer) -> AsyncIterator[JetStreamQueue]:
    queue = JetStreamQueue(Settings(queue_url=server.url, queue_prefix=PREFIX, queue_timeout=5.0))
    await queue.open()
    await eventually(lambda: queue.available, "the queue on NATS")
    yield queue
    await queue.close()


@pytest.fixture
async def client(server: NatsServer) -> AsyncIterator[Client]:
    connected = await nats.connect(server.url)
    yield connected
    await connected.close()


@pytest.fixture
async def sender(deliverer: Any, publisher: JetStreamQueue) -> Deliverer:
    made: Deliverer = deliverer(publisher, queue_prefix=PREFIX)
    return made


async def test_a_listener_gets_the_record_as_a_cloud_event(client: Client, sender: Deliverer) -> None:
    listening = await client.subscribe("orders.heard")
    await client.flush()
    event = delivery(b'{"version": "1.0"}', nats={"subject": "orders.heard"})
    await sender.deliver(event)
    message = await listening.next_msg(10)
    assert message.data == b'{"version": "1.0"}'
    assert message.headers == {
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": event.id,
        "ce-source": "/v1/namespaces/team-a/functions/resize",
        "ce-type": "run.kappa.event.failed",
        "ce-subject": "c0ffee",
        "ce-time": "2023-11-14T22:13:20.000Z",
        "Nats-Msg-Id": event.id,
    }


async def test_nobody_needs_to_listen(sender: Deliverer) -> None:
    await sender.deliver(delivery(nats={"subject": "nobody.listens"}))


async def test_a_stream_keeps_what_comes_and_takes_a_repetition_once(client: Client, sender: Deliverer) -> None:
    stream = client.jetstream()
    await stream.add_stream(name="kept", subjects=["kept.>"])
    event, other = (delivery(nats={"subject": "kept.orders"}) for _ in range(2))
    await sender.deliver(event)
    await sender.deliver(event)
    await sender.deliver(other)
    assert (await stream.stream_info("kept")).state.messages == 2


async def test_a_stream_that_is_full_is_tried_again(client: Client, sender: Deliverer) -> None:
    from nats.js.api import DiscardPolicy

    stream = client.jetstream()
    await stream.add_stream(name="full", subjects=["full"], max_msgs=1, discard=DiscardPolicy.NEW)
    await sender.deliver(delivery(nats={"subject": "full"}))
    with pytest.raises(DeliveryFailed, match="full was not published: ") as failed:
        await sender.deliver(delivery(nats={"subject": "full"}))
    assert failed.value.retryable


async def test_a_record_above_the_servers_limit_is_given_up_and_says_how_to_fix_it(sender: Deliverer) -> None:
    with pytest.raises(DeliveryFailed, match="max_payload") as failed:
        await sender.deliver(delivery(b"x" * (1024 * 1024 + 1), nats={"subject": "large"}))
    assert not failed.value.retryable


@pytest.mark.parametrize("subject", [PREFIX, f"{PREFIX}.invocation.team-b.secret.x"])
async def test_the_queues_own_subjects_are_not_written_to(client: Client, sender: Deliverer, subject: str) -> None:
    listening = await client.subscribe(f"{PREFIX}.>")
    await client.flush()
    with pytest.raises(DeliveryFailed, match="the queue itself") as failed:
        await sender.deliver(delivery(nats={"subject": subject}))
    assert not failed.value.retryable
    await client.flush()
    assert listening.pending_msgs == 0


@pytest.mark.parametrize("subject", ["$JS.API.STREAM.DELETE.kept", "_INBOX.x", "orders.*", "orders.>", "a b", ""])
async def test_a_subject_that_the_schema_refuses_is_refused_here_too(sender: Deliverer, subject: str) -> None:
    with pytest.raises(DeliveryFailed) as failed:
        await sender.deliver(delivery(nats={"subject": subject}))
    assert not failed.value.retryable


async def test_while_the_server_is_away_it_is_tried_again(deliverer: Any, tmp_path: Any) -> None:
    server = NatsServer(tmp_path / "away")
    server.start()
    queue = JetStreamQueue(Settings(queue_url=server.url, queue_timeout=0.3))
    await queue.open()
    try:
        await eventually(lambda: queue.available, "the queue on NATS")
        sender, event = deliverer(queue), delivery(nats={"subject": "orders.done"})
        await sender.deliver(event)
        await asyncio.to_thread(server.kill)
        with pytest.raises(DeliveryFailed, match=r"orders\.done was not published: ") as failed:
            await sender.deliver(event)
        assert failed.value.retryable
        await asyncio.to_thread(server.start)
        await eventually(lambda: queue.available, "the queue on NATS again")
        await sender.deliver(event)
    finally:
        await queue.close()
        await asyncio.to_thread(server.stop)


async def test_without_a_nats_server_it_is_given_up_and_says_how_to_get_one(deliverer: Any) -> None:
    with pytest.raises(DeliveryFailed, match="set queue_url to a nats:// address") as failed:
        await deliverer(None).deliver(delivery(nats={"subject": "orders.done"}))
    assert not failed.value.retryable
