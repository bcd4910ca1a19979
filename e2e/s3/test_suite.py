"""A suite that cannot fail shows nothing: a proxy that flips one byte of every answer must be noticed."""

import socket
import threading

import pytest
from botocore.exceptions import FlexibleChecksumError

import test_objects
import test_ranges

LENGTH = 5_000_003


class Flipping:
    """Passes connections on to `target`, and flips a bit in what comes back once `after` bytes have passed."""

    def __init__(self, target, after):
        self.target, self.after = target, after
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.target)
            threading.Thread(target=self.copy, args=(client, server, None), daemon=True).start()
            threading.Thread(target=self.copy, args=(server, client, self.after), daemon=True).start()

    @staticmethod
    def copy(source, target, after):
        passed = 0
        try:
            while data := source.recv(65_536):
                if after is not None and passed <= after < passed + len(data):
                    data = bytearray(data)
                    data[after - passed] ^= 1
                passed += len(data)
                target.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, target):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def close(self):
        self.listener.close()


@pytest.fixture
def damaged(node):
    # Deep inside the body of the one large answer; small answers are shorter than that.
    proxy = Flipping(node.address, after=800_000)
    # A client, and so a connection, for each use: bytes are counted per connection.
    yield lambda: node.client(endpoint=proxy.endpoint)
    proxy.close()


def test_the_suite_notices_a_flipped_byte(damaged, s3, bucket):
    # boto3 compares the checksum of the answer itself.
    with pytest.raises((AssertionError, FlexibleChecksumError)):
        test_objects.test_what_is_written_is_read(damaged(), bucket, LENGTH)
    with pytest.raises(AssertionError):
        test_ranges.test_a_range_is_what_was_asked(damaged(), bucket, "bytes=0-", 0, 1_300_000)
    # The same object through no proxy is whole: it was the way that damaged it.
    test_objects.test_what_is_written_is_read(s3, bucket, LENGTH)
