import datetime
import time
import urllib.error
import urllib.request

import pytest
from botocore.config import Config

from helpers import pattern, presigned_path, raw, refused, signed


def code(body):
    return body.split(b"<Code>")[1].split(b"</Code>")[0].decode()


@pytest.mark.parametrize("method, path", [
    ("GET", "/"), ("PUT", "/bucket-x"), ("GET", "/{}"), ("GET", "/{}/k"), ("HEAD", "/{}/k"), ("PUT", "/{}/k"), ("DELETE", "/{}/k"),
    ("DELETE", "/{}"), ("POST", "/{}?delete"), ("POST", "/{}/k?uploads"), ("GET", "/{}?uploads"),
])
def test_unsigned_requests_are_refused(node, s3, bucket, method, path):
    s3.put_object(Bucket=bucket, Key="k", Body=b"secret")
    status, _, body = raw(node, method, path.format(bucket))
    assert status == 403
    assert b"secret" not in body
    if method != "HEAD":
        assert code(body) == "AccessDenied"
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"secret"


def test_a_wrong_secret_is_refused(node):
    with refused("SignatureDoesNotMatch", 403):
        node.client(secret="wrong-secret-key").list_buckets()


def test_an_unknown_access_key_is_refused(node):
    with refused("InvalidAccessKeyId", 403):
        node.client(access="somebody-else").list_buckets()


@pytest.mark.parametrize("tamper", ["path", "query", "header", "body", "method", "signature", "date"])
def test_a_request_that_was_changed_after_signing_is_refused(node, s3, bucket, tamper):
    path, body, method = f"/{bucket}/k", b"the body", "PUT"
    headers = signed(node, method, path, {"x-amz-meta-a": "1"}, body)
    if tamper == "path":
        path = f"/{bucket}/other"
    elif tamper == "query":
        path += "?tagging"
    elif tamper == "header":
        headers["x-amz-meta-a"] = "2"
    elif tamper == "body":
        body = b"the b0dy"
    elif tamper == "method":
        method = "DELETE"
    elif tamper == "signature":
        # The last character is a hexadecimal digit of the signature.
        headers["Authorization"] = headers["Authorization"][:-1] + ("0" if headers["Authorization"][-1] != "0" else "1")
    elif tamper == "date":
        headers["X-Amz-Date"] = "20200101T000000Z"
    status, _, answer = raw(node, method, path, headers, body)
    assert status in (400, 403), answer
    assert code(answer) in ("SignatureDoesNotMatch", "XAmzContentSHA256Mismatch", "RequestTimeTooSkewed"), answer
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_an_old_request_is_not_replayed(node, s3, bucket, monkeypatch):
    from botocore import auth
    real = auth.get_current_datetime if hasattr(auth, "get_current_datetime") else None
    path = f"/{bucket}/k"
    if real is None:
        pytest.skip("this botocore has no clock to set back")
    monkeypatch.setattr(auth, "get_current_datetime", lambda *a, **k: real(*a, **k) - datetime.timedelta(hours=1))
    headers = signed(node, "PUT", path, body=b"x")
    status, _, answer = raw(node, "PUT", path, headers, b"x")
    assert (status, code(answer)) == (403, "RequestTimeTooSkewed")


def test_signature_version_2_is_refused(node, bucket):
    status, _, answer = raw(node, "GET", f"/{bucket}", {"Authorization": "AWS test-access-key:c2lnbmF0dXJl", "Date": "x"})
    assert (status, code(answer)) == (400, "InvalidRequest")
    status, _, answer = raw(node, "GET", f"/{bucket}/k?AWSAccessKeyId=test-access-key&Expires=9999999999&Signature=x")
    assert (status, code(answer)) == (400, "InvalidRequest")


def fetch(url, method="GET", data=None):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method, data=data)) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.fixture
def presigner(node):
    return node.client(config=Config(signature_version="s3v4"))


def test_a_presigned_url_reads_and_writes(presigner, s3, bucket):
    where = {"Bucket": bucket, "Key": "a key/ü"}
    put = presigner.generate_presigned_url("put_object", Params=where, ExpiresIn=60)
    assert fetch(put, "PUT", b"by url")[0] == 200
    get = presigner.generate_presigned_url("get_object", Params=where, ExpiresIn=60)
    assert fetch(get) == (200, b"by url")


def test_a_presigned_url_is_for_one_object_and_method(presigner, s3, bucket):
    s3.put_object(Bucket=bucket, Key="a", Body=b"a")
    s3.put_object(Bucket=bucket, Key="b", Body=b"b")
    url = presigner.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "a"}, ExpiresIn=60)
    status, body = fetch(url.replace("/a?", "/b?"))
    assert (status, code(body)) == (403, "SignatureDoesNotMatch")
    status, body = fetch(url, "DELETE")
    assert (status, code(body)) == (403, "SignatureDoesNotMatch")
    status, body = fetch(url.replace("X-Amz-Expires=60", "X-Amz-Expires=600"))
    assert (status, code(body)) == (403, "SignatureDoesNotMatch")


def test_a_presigned_url_expires(presigner, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    url = presigner.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=1)
    assert fetch(url)[0] == 200
    time.sleep(2.1)
    status, body = fetch(url)
    assert (status, code(body)) == (403, "AccessDenied")


def test_a_presigned_url_of_a_wrong_key_is_refused(node, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    path = presigned_path(node, "GET", f"/{bucket}/k", secret="wrong-secret-key")
    status, _, body = raw(node, "GET", path)
    assert (status, code(body)) == (403, "SignatureDoesNotMatch")


@pytest.mark.parametrize("path", ["/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd"])
def test_a_path_leads_nowhere_but_to_objects(node, path):
    status, _, body = raw(node, "GET", path, signed(node, "GET", path))
    assert status in (400, 403, 404) and b"root:" not in body


def test_signed_chunks_are_checked_one_by_one(node, s3, bucket):
    """aws-chunked with a signature per chunk, made here by hand (SigV4, "Chunked upload")."""
    import hashlib
    import hmac
    from node import REGION, SECRET

    body = pattern(100_000)
    path = f"/{bucket}/k"

    def send(damage):
        length = {"x-amz-decoded-content-length": str(len(body)), "content-encoding": "aws-chunked"}
        headers = signed(node, "PUT", path, length, payload="STREAMING-AWS4-HMAC-SHA256-PAYLOAD")
        stamp, previous = headers["X-Amz-Date"], headers["Authorization"].rsplit("Signature=", 1)[1]
        scope = f"{stamp[:8]}/{REGION}/s3/aws4_request"
        key = b"AWS4" + SECRET.encode()
        for part in scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        sent = b""
        for chunk in (body[:65_536], body[65_536:], b""):
            text = "\n".join(["AWS4-HMAC-SHA256-PAYLOAD", stamp, scope, previous,
                              hashlib.sha256(b"").hexdigest(), hashlib.sha256(chunk).hexdigest()])
            previous = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
            if damage and chunk == body[65_536:]:
                chunk = chunk[:-1] + bytes([chunk[-1] ^ 1])
            sent += f"{len(chunk):x};chunk-signature={previous}\r\n".encode() + chunk + b"\r\n"
        return raw(node, "PUT", path, headers, sent)

    status, _, answer = send(damage=True)
    assert (status, code(answer)) == (403, "SignatureDoesNotMatch")
    with refused("NoSuchKey"):
        s3.get_object(Bucket=bucket, Key="k")
    status, _, answer = send(damage=False)
    assert status == 200, answer
    answer = s3.get_object(Bucket=bucket, Key="k")
    assert answer["Body"].read() == body
    assert "ContentEncoding" not in answer
