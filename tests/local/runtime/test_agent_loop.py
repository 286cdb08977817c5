"""The agent's own event loop and transports, over real descriptors."""

import os
import selectors
import signal
import socket
import threading

import pytest

from kappa_runtime import platform
from kappa_runtime.io.loop import EventLoop
from kappa_runtime.io.transport import Server
from kappa_runtime.start.sockets import listen


@pytest.fixture(params=[None, selectors.SelectSelector, selectors.PollSelector], ids=["epoll", "select", "poll"])
def loop(request):
    made = EventLoop() if request.param is None else EventLoop(platform.SelectorPoller(request.param()))
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1,)}
    yield made
    made.close()
    for number, handler in before.items():
        signal.signal(number, handler)


def run(loop, timeout=5.0):
    """Runs until something stops it; too long is a failure."""
    late = []
    timer = loop.call_later(timeout, lambda: (late.append(True), loop.stop()))
    loop.run()
    timer.cancel()
    assert not late, "the loop did not come to its end"


def test_timers_come_in_order_and_cancelled_ones_do_not(loop):
    seen = []
    loop.call_later(0.02, seen.append, "second")
    loop.call_later(0.01, seen.append, "first")
    loop.call_later(0.015, seen.append, "never").cancel()
    loop.call_later(0.03, loop.stop)
    run(loop)
    assert seen == ["first", "second"]


def test_cancelled_timers_do_not_pile_up(loop):
    for _ in range(5000):
        loop.call_later(3600, print).cancel()
    assert len(loop._timers) < 2100
    kept = []
    loop.call_later(0.0, lambda: (kept.append(1), loop.stop()))
    run(loop)
    assert kept == [1]


def test_what_a_callback_adds_soon_waits_for_the_next_turn(loop):
    turns = []

    def again(count):
        turns.append(count)
        if count:
            loop.call_soon(again, count - 1)
        else:
            loop.stop()

    loop.call_soon(again, 3)
    run(loop)
    assert turns == [3, 2, 1, 0]


def test_a_callback_that_raises_is_printed_and_the_loop_goes_on(loop, capsys):
    loop.call_soon(lambda: 1 / 0)
    loop.call_later(0.01, loop.stop)
    run(loop)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_signal_wakes_the_loop(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, lambda: (seen.append(1), loop.stop()))
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    run(loop)
    assert seen == [1]


def test_a_plain_file_can_be_waited_for_to_write(loop, tmp_path):
    with (tmp_path / "log").open("wb") as file:
        loop.add_writer(file.fileno(), lambda: (loop.remove_writer(file.fileno()), loop.stop()))
        run(loop)


class Echo:
    """Sends back what it gets, and notes its life."""

    def __init__(self, notes, stay_after_eof=False):
        self.notes = notes
        self.stay = stay_after_eof
        self.transport = None
        self.lost = False

    def connection_made(self, transport):
        self.transport = transport
        self.notes.append("made")

    def data_received(self, data):
        self.transport.write(data)

    def eof_received(self):
        self.notes.append("eof")
        if self.stay:
            self.transport.write(b"late")
            self.transport.close()
        return self.stay

    def connection_lost(self, error):
        self.lost = True
        self.notes.append(type(error).__name__ if error else "closed")


def serve(loop, notes, client, **options):
    """An echo server; `client(connection)` runs in a thread, and the loop ends with it."""
    fd, port = listen("127.0.0.1", 0)
    protocols = []

    def factory():
        protocols.append(Echo(notes, **options))
        return protocols[-1]

    server = Server(loop, fd, factory)
    results = []

    def work():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                results.append(client(connection, protocols))
        finally:
            os.write(loop._wake_write, b"\0")
            done.append(True)

    done = []

    def check():
        if done and all(protocol.lost for protocol in protocols):
            loop.stop()
        else:
            loop.call_later(0.005, check)

    thread = threading.Thread(target=work)
    thread.start()
    loop.call_soon(check)
    run(loop)
    thread.join()
    server.close()
    return results[0]


def receive(connection, count):
    data = b""
    while len(data) < count:
        piece = connection.recv(65536)
        if not piece:
            break
        data += piece
    return data


def test_megabytes_come_back_whole_though_the_client_reads_late(loop):
    notes = []
    sent = os.urandom(8 * 1024 * 1024)

    def client(connection, protocols):
        reader = []
        thread = threading.Thread(target=lambda: reader.append(receive(connection, len(sent))))
        sender = threading.Thread(target=connection.sendall, args=(sent,))
        sender.start()
        thread.start()
        sender.join()
        thread.join()
        return reader[0]

    assert serve(loop, notes, client) == sent


def test_a_client_that_shuts_its_side_still_reads(loop):
    notes = []

    def client(connection, protocols):
        connection.shutdown(socket.SHUT_WR)
        return receive(connection, 4)

    assert serve(loop, notes, client, stay_after_eof=True) == b"late"
    assert notes == ["made", "eof", "closed"]


def test_a_client_that_resets_is_noticed_once(loop):
    notes = []

    def client(connection, protocols):
        connection.sendall(b"x")
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
        for _ in range(500):
            if len(notes) > 1:
                return
            threading.Event().wait(0.01)
        return

    serve(loop, notes, client)
    assert notes == ["made", "ConnectionResetError"]


def test_a_descriptor_is_watched_for_both_ways_and_for_one_again(loop):
    one, other = socket.socketpair()
    one.setblocking(False)
    seen = []

    def readable():
        seen.append(one.recv(10))
        loop.stop()

    def writable():
        seen.append("writable")
        loop.remove_writer(one.fileno())
        other.sendall(b"x")

    loop.add_reader(one.fileno(), readable)
    loop.add_writer(one.fileno(), writable)
    run(loop)
    assert seen == ["writable", b"x"]
    loop.remove_reader(one.fileno())
    one.close()
    other.close()
