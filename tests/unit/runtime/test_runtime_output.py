"""The container log over a descriptor that takes what it likes."""

import os

import pytest

from kappa_runtime.io import output


class Loop:
    """What Output and Pipe ask of an event loop."""

    def __init__(self):
        self.readers = {}
        self.writers = {}
        self.timers = []

    def add_reader(self, fd, callback):
        self.readers[fd] = callback

    def remove_reader(self, fd):
        del self.readers[fd]

    def add_writer(self, fd, callback):
        self.writers[fd] = callback

    def remove_writer(self, fd):
        del self.writers[fd]

    def call_later(self, seconds, callback):
        self.timers.append(callback)
        return self

    def cancel(self):
        self.timers.clear()


class Source:
    """What feeds the log."""

    def __init__(self, told):
        self.pause = told.append


@pytest.fixture
def pipe():
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    yield read_end, write_end
    for fd in (read_end, write_end):
        try:
            os.close(fd)
        except OSError:
            continue


def read_all(fd):
    received = b""
    while True:
        try:
            piece = os.read(fd, 1 << 20)
        except BlockingIOError:
            return received
        received += piece


def test_lines_wait_for_company_and_go_before_what_follows(pipe):
    loop = Loop()
    log = output.Output(loop, pipe[1])
    log.line(b"START\n")
    assert read_all(pipe[0]) == b""
    log.write(b"printed")
    assert read_all(pipe[0]) == b"START\nprinted"
    log.line(b"END\n")
    log.line(b"REPORT\n")
    (flush,) = loop.timers
    flush()
    assert read_all(pipe[0]) == b"\nEND\nREPORT\n"


def test_a_full_descriptor_pauses_what_feeds_it(pipe):
    loop, told = Loop(), []
    log = output.Output(loop, pipe[1])
    log.add(Source(told))
    written = 0
    while not log.full:
        log.write(b"x" * 65536)
        written += 65536
        assert written < 2_000_000
    assert told == [False, True]
    received = 0
    while log.pending:
        received += len(read_all(pipe[0]))
        loop.writers[pipe[1]]()
    received += len(read_all(pipe[0]))
    assert received == written
    assert told == [False, True, False]
    assert not loop.writers


def test_the_agents_own_lines_are_bounded_and_counted(pipe):
    loop = Loop()
    log = output.Output(loop, pipe[1])
    log.write(b"x" * (output.MAX_PENDING + 200_000))
    for _ in range(1000):
        log.line(b"END\n")
    assert log.pending < output.MAX_PENDING + 210_000
    while log.pending:
        read_all(pipe[0])
        (loop.writers.get(pipe[1]) or log.flush)()
    log.flush()
    assert b"1000 log lines of the platform were left out" in read_all(pipe[0])


def test_a_reader_that_is_gone_is_no_error(pipe):
    log = output.Output(Loop(), pipe[1])
    os.close(pipe[0])
    log.write(b"x\n")
    log.write(b"y\n")
    assert log.pending == 0


def test_whole_lines_where_several_processes_print(pipe):
    loop = Loop()
    log = output.Output(loop, pipe[1])
    source, sink = os.pipe()
    os.set_blocking(source, False)
    piece = output.Pipe(loop, source, log, whole_lines=True)
    os.write(sink, b"one\ntw")
    piece.drain()
    assert read_all(pipe[0]) == b"one\n"
    os.write(sink, b"o\nthree")
    piece.drain()
    piece.end_line()
    assert read_all(pipe[0]) == b"two\nthree"
    os.write(sink, b"x" * (output.MAX_HELD + 1))
    piece.drain()
    assert len(read_all(pipe[0])) == output.MAX_HELD + 1
    os.close(sink)
    piece.drain()
    assert source not in loop.readers
    piece.close()
