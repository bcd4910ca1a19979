"""Small things that several test files use."""

import base64
import contextlib
import hashlib
import http.client
import random
import urllib.parse

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from node import ACCESS, REGION, SECRET


@contextlib.contextmanager
def refused(code, status=None):
    """The block must be refused with this S3 error code."""
    with pytest.raises(ClientError) as caught:
        yield caught
    error = caught.value.response
    assert error["Error"]["Code"] == code, error
    if status:
        assert error["ResponseMetadata"]["HTTPStatusCode"] == status, error


def headers(answer):
    """Headers of what boto3 answered or raised, by their names in lower case."""
    return answer["ResponseMetadata"]["HTTPHeaders"]


def status(answer):
    return answer["ResponseMetadata"]["HTTPStatusCode"]


def code(body):
    """The code of an error document."""
    return body.split(b"<Code>")[1].split(b"</Code>")[0].decode()


def pattern(length, seed=1):
    return random.Random(seed).randbytes(length)


def raw(node, method, path, headers=None, body=b""):
    """One request as it is; returns status, headers, body."""
    connection = http.client.HTTPConnection(*node.address, timeout=20)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, dict((k.lower(), v) for k, v in answer.getheaders()), answer.read()
    finally:
        connection.close()


class Signer(S3SigV4Auth):
    """botocore's signer, for any value of x-amz-content-sha256."""

    def __init__(self, credentials, value):
        super().__init__(credentials, "s3", REGION)
        self.value = value

    def payload(self, request):
        return self.value


def signed(node, method, path, headers=None, body=b"", access=ACCESS, secret=SECRET, payload=None):
    """Headers of a request signed by botocore's own signer, to be sent or tampered with."""
    request = AWSRequest(method=method, url=node.endpoint + path, data=body, headers=dict(headers or {}))
    Signer(Credentials(access, secret), payload or hashlib.sha256(body).hexdigest()).add_auth(request)
    return {**dict(request.headers.items()), "Host": "%s:%d" % node.address}


def put_document(node, path, document):
    """PUTs a document as it is, with the digest that most configurations ask for."""
    given = {"Content-MD5": base64.b64encode(hashlib.md5(document).digest()).decode()}
    return raw(node, "PUT", path, signed(node, "PUT", path, given, document), document)


def presigned_path(node, method, path, expires=60, access=ACCESS, secret=SECRET):
    request = AWSRequest(method=method, url=node.endpoint + path)
    S3SigV4QueryAuth(Credentials(access, secret), "s3", REGION, expires=expires).add_auth(request)
    parts = urllib.parse.urlsplit(request.url)
    return f"{parts.path}?{parts.query}"
