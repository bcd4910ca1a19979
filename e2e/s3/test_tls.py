import shutil
import subprocess

import pytest
from botocore.exceptions import SSLError

from helpers import pattern
from node import Node


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate of this test")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=penstock-test", "-addext", "subjectAltName=IP:127.0.0.1",
         # Of a server and not of a CA: a gateway before it checks it too, and more strictly than openssl does.
         "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True)
    # All that is logged of requests, so that a test may look for secrets in it.
    node = Node("--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem"), scheme="https", log="debug")
    yield node, str(folder / "cert.pem")
    node.close()


def test_everything_works_over_tls_with_default_settings(secure):
    node, ca = secure
    s3 = node.client(verify=ca)
    assert node.endpoint.startswith("https://")
    s3.create_bucket(Bucket="over-tls")
    for length in (0, 10, 3_000_000):
        body = pattern(length)
        # Over TLS boto3 sends its checksum in a trailer of an unsigned aws-chunked body.
        written = s3.put_object(Bucket="over-tls", Key="k", Body=body)
        assert written["ChecksumCRC32"]
        answer = s3.get_object(Bucket="over-tls", Key="k")
        assert answer["Body"].read() == body
        assert "ContentEncoding" not in answer


def test_a_client_that_does_not_know_the_ca_refuses(secure):
    node, _ = secure
    with pytest.raises(SSLError):
        node.client().list_buckets()


def test_plain_http_is_not_answered_on_the_tls_port(secure):
    import socket
    node, _ = secure
    with socket.create_connection(node.address, timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not connection.recv(4096).startswith(b"HTTP/")


def test_a_certificate_that_cannot_be_used_is_refused_with_its_name(tmp_path):
    (tmp_path / "cert.pem").write_text("not a certificate")
    (tmp_path / "key.pem").write_text("not a key")
    with pytest.raises(RuntimeError, match="the TLS certificate .*cert.pem cannot be used"):
        Node("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"))
