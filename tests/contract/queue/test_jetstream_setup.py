"""JetStream's adapter and the server's set-up: credentials, TLS, limits, rights; and streams that are there already."""

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats_server import NatsServer
from pydantic import SecretStr
from queue_contract import (
    LANE,
    Backend,
    Queues,
    a_dead_event,
    a_record,
    an_event,
    enqueue_many,
    ids_of,
    make,
    receive_one,
)
from waiting import eventually

from kappa_core.errors import InvalidRequest, RequestTooLarge
from kappa_core.event import Event, Kind, Lane, Status
from kappa_gateway.queue.jetstream.queue import JetStreamQueue
from kappa_gateway.queue.protocol import Queue, QueueFull, QueueMisconfigured

Servers = Callable[..., NatsServer]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """Started with `config`, stopped in the end."""
    started: list[NatsServer] = []

    def start(config: dict[str, Any] | None = None, **fields: Any) -> NatsServer:
        server = NatsServer(tmp_path / f"server{len(started)}", config or {}, **fields)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.kill()


async def _works(queue: Queue) -> None:
    await queue.open()
    try:
        await eventually(lambda: queue.available, "the queue")
        assert await queue.enqueue(an_event("one"))
        lease = await receive_one(queue)
        await queue.save_record(a_record("one", Status.SUCCEEDED))
        await queue.ack(lease)
    finally:
        await queue.close()


async def _refused(queue: Queue, match: str) -> None:
    with pytest.raises(QueueMisconfigured, match=match):
        await queue.open()
    assert not queue.available


# -- credentials and TLS


async def test_user_and_password(servers: Servers) -> None:
    url = servers({"authorization": {"user": "kappa", "password": "pass word/@"}}).url
    await _works(make({"queue_url": url, "queue_user": "kappa", "queue_password": SecretStr("pass word/@")}, {}))
    await _refused(
        make({"queue_url": url, "queue_user": "kappa", "queue_password": SecretStr("wrong")}, {}),
        r"does not accept the queue's credentials.*KAPPA_GATEWAY_QUEUE_USER",
    )
    await _refused(make({"queue_url": url}, {}), "credentials")


async def test_credentials_in_the_url_are_in_no_message(servers: Servers) -> None:
    server = servers({"authorization": {"user": "kappa", "password": "secret"}})
    await _works(make({"queue_url": f"nats://kappa:secret@127.0.0.1:{server.port}"}, {}))
    with pytest.raises(QueueMisconfigured) as caught:
        await make({"queue_url": f"nats://kappa:hidden@127.0.0.1:{server.port}"}, {}).open()
    assert "hidden" not in str(caught.value)
    assert f"nats://127.0.0.1:{server.port}" in str(caught.value)


async def test_a_token(servers: Servers) -> None:
    url = servers({"authorization": {"token": "letmein"}}).url
    await _works(make({"queue_url": url, "queue_token": SecretStr("letmein")}, {}))
    await _refused(make({"queue_url": url, "queue_token": SecretStr("no")}, {}), "credentials")


async def test_credentials_that_come_right_later(servers: Servers) -> None:
    server = servers({"authorization": {"token": "old"}})
    queue = make({"queue_url": server.url, "queue_token": SecretStr("new")}, {})
    server.kill()
    await queue.open()
    server.start()
    server.kill()
    server.config["authorization"] = {"token": "new"}
    server.start()
    await eventually(lambda: queue.available, "the queue")
    await queue.close()


@pytest.mark.parametrize("text", ["", "no credentials", "-----BEGIN NATS USER JWT-----\n"])
async def test_a_file_that_is_not_a_credentials_file(tmp_path: Path, text: str) -> None:
    """nats-py would read such a file for ever."""
    file = tmp_path / "kappa.creds"
    file.write_text(text)
    options = {"queue_url": "nats://127.0.0.1:1", "queue_credentials_file": str(file)}
    await _refused(make(options, {}), r"kappa\.creds.*user JWT")
    await _refused(make({**options, "queue_credentials_file": "/nowhere"}, {}), "/nowhere")


def _certificates(folder: Path) -> dict[str, str]:
    def run(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    def key(name: str) -> list[str]:
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"]

    folder.mkdir()
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    run("req", "-x509", *key("ca"), "-out", "ca.pem", "-days", "2", "-subj", "/CN=test ca")
    for name in ("server", "client"):
        run("req", *key(name), "-out", f"{name}.csr", "-subj", f"/CN={name}")
        sign = f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out {name}.pem"
        run(*sign.split())
    return {file.name: str(file) for file in folder.iterdir()}


async def test_tls(servers: Servers, tmp_path: Path) -> None:
    files = _certificates(tmp_path / "tls")
    tls = {"cert_file": files["server.pem"], "key_file": files["server.key"], "ca_file": files["ca.pem"]}
    server = servers({"tls": tls})
    url = f"tls://127.0.0.1:{server.port}"
    await _works(make({"queue_url": url, "queue_tls_ca": files["ca.pem"]}, {}))
    untrusting = make({"queue_url": url}, {"queue_timeout": 2.0})
    await untrusting.open()
    with pytest.raises(Exception, match="certificate verify failed"):
        await untrusting.enqueue(an_event())
    await untrusting.close()
    await _refused(make({"queue_url": url, "queue_tls_ca": "/nowhere/ca.pem"}, {}), "/nowhere/ca.pem")


async def test_tls_with_a_certificate_of_the_gateway(servers: Servers, tmp_path: Path) -> None:
    files = _certificates(tmp_path / "tls")
    tls = {"cert_file": files["server.pem"], "key_file": files["server.key"], "ca_file": files["ca.pem"]}
    server = servers({"tls": {**tls, "verify": True}})
    options = {"queue_url": server.url, "queue_tls_ca": files["ca.pem"]}
    own = {"queue_tls_cert": files["client.pem"], "queue_tls_key": files["client.key"]}
    await _works(make({**options, **own}, {}))
    without = make(options, {"queue_timeout": 0.5})
    await without.open()
    assert not without.available
    await without.close()


async def test_a_connection_that_asks_for_tls_never_goes_without(servers: Servers) -> None:
    """So that nobody between can have the password by leaving TLS out."""
    server = servers()
    queue = make({"queue_url": f"tls://127.0.0.1:{server.port}"}, {"queue_timeout": 2.0})
    await queue.open()
    with pytest.raises(Exception, match="offers no TLS"):
        await queue.enqueue(an_event())
    await queue.close()


# -- limits and rights


async def test_a_server_without_jetstream(servers: Servers) -> None:
    await _refused(make({"queue_url": servers(jetstream=False).url}, {}), "without JetStream: start it with -js")


async def test_more_replicas_than_servers(servers: Servers) -> None:
    await _refused(make({"queue_url": servers().url, "queue_replicas": 3}, {}), "replicas")


async def test_a_server_that_takes_small_messages(servers: Servers) -> None:
    await _refused(make({"queue_url": servers({"max_payload": 32768}).url}, {}), r"32768 bytes.*max_payload.*1081344")


async def test_a_server_that_takes_somewhat_less_than_the_largest_event(servers: Servers) -> None:
    server = servers({"max_payload": 1024 * 1024})
    queue = make({"queue_url": server.url}, {})
    await queue.open()
    limit = queue.max_event_bytes
    assert limit is not None
    assert 900_000 < limit < 1024 * 1024
    event = an_event("largest", payload=b"x" * limit, attributes={"a": "é" * 1000})
    assert await queue.enqueue(event)
    assert (await receive_one(queue)).event == event
    dead = a_dead_event(event, error={"errorType": "E", "errorMessage": "é" * 200_000})
    await queue.dead_letter(dead)
    found = await queue.dead_event(LANE.namespace, LANE.function, "largest")
    assert found is not None
    assert found.event == event
    with pytest.raises(RequestTooLarge, match=r"1048576.*max_payload"):
        await queue.enqueue(an_event(payload=b"x" * 1024 * 1024))
    assert queue.available
    await queue.close()


async def test_a_user_without_rights(servers: Servers) -> None:
    def server(**permissions: Any) -> str:
        user = {"user": "kappa", "password": "pw", "permissions": permissions}
        return servers({"authorization": {"users": [user]}}).url

    def queue(url: str) -> Queue:
        return make({"queue_url": url, "queue_user": "kappa", "queue_password": SecretStr("pw")}, {})

    everything = ["$JS.API.>", "$JS.ACK.>", "kappa.>"]
    await _works(queue(server(publish=everything, subscribe=["_INBOX.>"])))
    await _refused(queue(server(publish=["kappa.>"], subscribe=[">"])), r"right to publish to \$js\.api\.info")
    await _refused(queue(server(publish=[">"], subscribe=["other.>"])), r"right to subscribe to _inbox")
    await _refused(queue(server(publish=["$JS.API.>", "$JS.ACK.>"], subscribe=[">"])), "publish to kappa.server")


async def test_a_full_server(servers: Servers) -> None:
    server = servers({"jetstream": {"max_file_store": 300_000}})
    queue = make({"queue_url": server.url}, {})
    await queue.open()

    async def fill() -> None:
        for _ in range(100):
            await queue.enqueue(an_event(payload=b"x" * 10_000))

    with pytest.raises(QueueFull, match="storage"):
        await fill()
    lease = await receive_one(queue)
    await queue.ack(lease)
    await queue.close()


# -- what is there already


@pytest.fixture
async def nats(nats_server: NatsServer) -> Any:
    client = Client()
    await client.connect(nats_server.url)
    yield client
    await client.close()


@pytest.fixture
def queues(jetstream_backend: Backend) -> Queues:
    return Queues(jetstream_backend)


@pytest.fixture
async def queue(queues: Queues) -> Any:
    yield await queues.open()
    await queues.close_all()


def _prefix(queue: Queue) -> str:
    assert isinstance(queue, JetStreamQueue)
    return queue._names.prefix


async def test_streams_of_other_settings_are_brought_up_to_date(queues: Queues, nats: Client) -> None:
    queue = await queues.open()
    await enqueue_many(queue, 2)
    await (
        await queues.reopen(queue, queue_deduplication_window=60.0, queue_max_bytes=50_000, queue_lease=20.0)
    ).enqueue(an_event("another"))
    stream = await nats.jsm().stream_info(f"{_prefix(queue)}_invocation_default_resize")
    assert (stream.config.duplicate_window, stream.config.max_bytes, stream.state.messages) == (60, 50_000, 3)
    consumer = await nats.jsm().consumer_info(f"{_prefix(queue)}_invocation_default_resize", "dispatch")
    assert consumer.config.ack_wait == 20
    await queues.close_all()


async def test_anothers_stream_on_the_queues_subjects(queues: Queues, nats: Client) -> None:
    prefix = queues.backend.options["queue_prefix"]
    await nats.jetstream().add_stream(name=f"other-{prefix}", subjects=[f"{prefix}.>"])
    await _refused(queues.make(), r"subjects overlap.*KAPPA_GATEWAY_QUEUE_PREFIX")


async def test_a_message_that_no_gateway_enqueued_is_removed(queue: Queue, nats: Client) -> None:
    await enqueue_many(queue, 1)
    await nats.jetstream().publish(f"{_prefix(queue)}.invocation.default.resize.junk", b"hello")
    await enqueue_many(queue, 1, prefix="second")
    assert [(await receive_one(queue)).event.id for _ in range(2)] == ["event-0000", "second-0000"]
    assert await queue.find(LANE, "junk") is None


@pytest.mark.parametrize("bad", ["*", ">", "a.b", "a b", "", "a\r\nPUB x 0\r\n", "é", "x" * 200])
async def test_names_that_make_no_subject(queue: Queue, bad: str) -> None:
    await enqueue_many(queue, 1)
    await queue.save_record(a_record("event", Status.SUCCEEDED))
    where = (LANE.namespace, LANE.function)
    assert await queue.record(*where, bad) is None
    assert await queue.dead_event(*where, bad) is None
    assert not await queue.delete_dead_event(*where, bad)
    assert await queue.find(LANE, bad) is None
    assert ids_of(await queue.events(LANE, limit=9, after=bad)) == ["event-0000"]
    if len(bad) < 100:
        assert await queue.records(LANE.namespace, bad, limit=9) == []
        assert await queue.purge(Lane(Kind.INVOCATION, LANE.namespace, bad)) == 0
    with pytest.raises(InvalidRequest):
        await queue.enqueue(Event(bad, LANE, b"{}", 1.0))


async def test_two_gateways_share_a_lane(queues: Queues) -> None:
    one, other = await queues.open(), await queues.open()
    ids = await enqueue_many(one, 200)
    parts = await asyncio.gather(*(gateway.receive(LANE, 60, 1.0) for gateway in (one, other, one, other)))
    received = [lease for part in parts for lease in part]
    assert len({lease.event.id for lease in received}) == len(received)
    assert set(ids_of(received)) <= set(ids)
    assert all(lease.fresh for lease in received)
    for lease in received:
        await other.ack(lease)
    await queues.close_all()


async def test_listings_find_a_functions_own_among_many(queue: Queue) -> None:
    many = Lane(Kind.INVOCATION, "default", "busy")
    await queue.save_record(a_record("first", Status.SUCCEEDED, updated_at=1.0))
    for start in range(0, 600, 100):
        await asyncio.gather(
            *(
                queue.save_record(a_record(f"b{number}", Status.SUCCEEDED, lane=many, updated_at=float(number)))
                for number in range(start, start + 100)
            )
        )
    await queue.save_record(a_record("last", updated_at=2.0))
    assert ids_of(await queue.records(LANE.namespace, LANE.function, limit=10)) == ["last", "first"]
    newest = await queue.records(many.namespace, many.function, limit=5)
    assert ids_of(newest) == ["b599", "b598", "b597", "b596", "b595"]


async def test_many_lanes_are_counted_quickly(queue: Queue) -> None:
    lanes = [Lane(Kind.INVOCATION, "default", f"f{number}") for number in range(300)]
    for start in range(0, 300, 50):
        await asyncio.gather(*(queue.enqueue(an_event(lane=lane)) for lane in lanes[start : start + 50]))
    loop = asyncio.get_running_loop()
    began = loop.time()
    states = await queue.lanes()
    assert {state.lane for state in states} == set(lanes)
    assert loop.time() - began < 10.0


# -- destinations


async def test_publishing_to_a_stream_and_to_subscribers(queue: Queue, nats: Client) -> None:
    assert isinstance(queue, JetStreamQueue)
    prefix = _prefix(queue)
    stream = nats.jetstream()
    await stream.add_stream(name=f"orders-{prefix}", subjects=[f"orders.{prefix}"])
    for _ in range(2):
        await queue.publish(f"orders.{prefix}", b"paid", {"Nats-Msg-Id": "1", "ce-type": "done"})
    assert (await stream.stream_info(f"orders-{prefix}")).state.messages == 1
    subscription = await nats.subscribe(f"plain.{prefix}")
    await nats.flush()
    await queue.publish(f"plain.{prefix}", b"hello", {"a": "é"})
    message = await subscription.next_msg(5)
    assert (message.data, message.headers, message.reply) == (b"hello", {"a": "é"}, "")
    await queue.publish(f"nobody.{prefix}", b"", {})
    with pytest.raises(RequestTooLarge):
        await queue.publish(f"orders.{prefix}", b"x" * 9 * 1024 * 1024, {})


@pytest.mark.parametrize(
    "subject", ["{prefix}.invocation.default.f.x", "$JS.API.INFO", "_INBOX.x", "a b", "a.*", "a.>"]
)
async def test_subjects_that_are_not_for_publishing(queue: Queue, subject: str) -> None:
    assert isinstance(queue, JetStreamQueue)
    with pytest.raises(InvalidRequest):
        await queue.publish(subject.format(prefix=_prefix(queue)), b"", {})
