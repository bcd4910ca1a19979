"""Encryption by the storage node (SSE-S3), and what a bucket says of what is written into it."""

import hashlib
import json
import uuid

import pytest

from helpers import code, pattern, put_document, raw, refused, signed, status
from sse import KEY, OTHER, from_key, on_disk, with_key
from test_bucket_config import missing
from test_multipart import Upload
from test_post_policy import policy as form_policy, post, signed_fields
from test_tls import secure  # A fixture: keys of customers go over TLS only.

AES = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}


def told(answer):
    return answer.get("ServerSideEncryption")


def encrypts(s3, bucket):
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=AES)


@pytest.mark.parametrize("way", ["put", "multipart", "copy", "default"])
def test_the_servers_own_encryption_is_told(s3, bucket, way):
    body = pattern(700_000)
    if way == "put":
        written = s3.put_object(Bucket=bucket, Key="k", Body=body, ServerSideEncryption="AES256")
    elif way == "multipart":
        parts = Upload(s3, bucket, ServerSideEncryption="AES256")
        parts.part(1, body)
        written = parts.complete()
    elif way == "copy":
        s3.put_object(Bucket=bucket, Key="from", Body=body)
        written = s3.copy_object(Bucket=bucket, Key="k", CopySource={"Bucket": bucket, "Key": "from"}, ServerSideEncryption="AES256")
    else:
        s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={
            "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]})
        written = s3.put_object(Bucket=bucket, Key="k", Body=body)
    assert written["ServerSideEncryption"] == "AES256"
    answer = s3.get_object(Bucket=bucket, Key="k")
    assert (answer["ServerSideEncryption"], s3.head_object(Bucket=bucket, Key="k")["ServerSideEncryption"]) == ("AES256", "AES256")
    assert answer["Body"].read() == body
    assert s3.get_object(Bucket=bucket, Key="k", Range="bytes=65530-65540")["Body"].read() == body[65_530:65_541]


@pytest.mark.parametrize("given", [{"ServerSideEncryption": "AES128"}, {"ServerSideEncryption": "aes256"}], ids=str)
def test_an_unknown_encryption_stores_nothing(s3, bucket, given):
    with pytest.raises(s3.exceptions.ClientError) as caught:
        s3.put_object(Bucket=bucket, Key="k", Body=b"x", **given)
    assert status(caught.value.response) == 400
    assert caught.value.response["Error"]["Code"] in ("InvalidArgument", "InvalidEncryptionAlgorithmError")
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_encryption_by_a_key_service_that_there_is_not_stores_nothing(s3, bucket):
    for given in ({"ServerSideEncryption": "aws:kms"}, {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "a-key"}):
        with pytest.raises(s3.exceptions.ClientError) as caught:
            s3.put_object(Bucket=bucket, Key="k", Body=b"x", **given)
        assert status(caught.value.response) in (400, 501)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_reading_asks_for_no_encryption(node, s3, bucket, method):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ServerSideEncryption="AES256")
    path = f"/{bucket}/k"
    state, _, body = raw(node, method, path, signed(node, method, path, {"x-amz-server-side-encryption": "AES256"}))
    assert state == 400
    assert method == "HEAD" or code(body) == "InvalidArgument"


@pytest.mark.parametrize("length", [0, 1, 65_535, 65_536, 65_537, 1_000_000])
def test_its_entity_tag_and_checksums_are_of_what_was_written(node, s3, bucket, length):
    body = pattern(length, uuid.uuid4().int)
    written = s3.put_object(Bucket=bucket, Key="k", Body=body, ServerSideEncryption="AES256", ChecksumAlgorithm="SHA256")
    assert written["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    answer = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (answer["Body"].read(), answer["ContentLength"], answer["ChecksumSHA256"]) == (body, length, written["ChecksumSHA256"])
    assert [entry["Size"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [length]
    assert length < 100 or not on_disk(node, body[length // 2:length // 2 + 64])


def test_what_nobody_asked_to_encrypt_is_not(node, s3, bucket):
    body = pattern(100_000, uuid.uuid4().int)
    written = s3.put_object(Bucket=bucket, Key="k", Body=body)
    assert told(written) is None and told(s3.get_object(Bucket=bucket, Key="k")) is None
    assert on_disk(node, body[50_000:50_064])


def test_parts_are_encrypted_as_their_upload(node, s3, bucket):
    bodies = [pattern(5 << 20, uuid.uuid4().int), pattern(70_000, uuid.uuid4().int)]
    parts = Upload(s3, bucket, ServerSideEncryption="AES256")
    for number, body in enumerate(bodies, 1):
        parts.part(number, body)
    assert told(parts.complete()) == "AES256"
    for number, body in enumerate(bodies, 1):
        answer = s3.get_object(Bucket=bucket, Key="k", PartNumber=number)
        assert (answer["Body"].read(), told(answer)) == (body, "AES256")
        assert not on_disk(node, body[60_000:60_064])


@pytest.mark.parametrize("source, target", [(None, "AES256"), ("AES256", None), ("AES256", "AES256")], ids=str)
def test_a_copy_is_encrypted_as_was_asked(node, s3, bucket, source, target):
    body = pattern(300_000, uuid.uuid4().int)
    first = s3.put_object(Bucket=bucket, Key="k", Body=body, **({"ServerSideEncryption": source} if source else {}))
    copied = s3.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": bucket, "Key": "k"},
                            **({"ServerSideEncryption": target} if target else {}))
    assert (told(copied), copied["CopyObjectResult"]["ETag"]) == (target, first["ETag"])
    answer = s3.get_object(Bucket=bucket, Key="c")
    assert (answer["Body"].read(), told(answer)) == (body, target)
    s3.delete_object(Bucket=bucket, Key="k")
    assert s3.get_object(Bucket=bucket, Key="c")["Body"].read() == body
    # An open source may be there for a moment still.
    assert source is None or on_disk(node, body[100_000:100_064]) == (target is None)


def test_an_object_is_encrypted_by_copying_it_onto_itself(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"open", Metadata={"a": "1"}, Tagging="t=1")
    itself = {"Bucket": bucket, "Key": "k", "CopySource": {"Bucket": bucket, "Key": "k"}}
    with refused("InvalidRequest", 400):
        s3.copy_object(**itself)
    s3.copy_object(**itself, ServerSideEncryption="AES256")
    answer = s3.get_object(Bucket=bucket, Key="k")
    assert (answer["Body"].read(), told(answer), answer["Metadata"], answer["TagCount"]) == (b"open", "AES256", {"a": "1"}, 1)


def test_a_copy_goes_from_a_customers_key_to_the_servers_and_back(secure):
    node, ca = secure
    s3, bucket = node.client(verify=ca), f"test-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=bucket)
    body = pattern(300_000)
    s3.put_object(Bucket=bucket, Key="k", Body=body, **with_key(KEY))
    where = {"Bucket": bucket, "CopySource": {"Bucket": bucket, "Key": "k"}}
    copied = s3.copy_object(Key="server", **where, **from_key(KEY), ServerSideEncryption="AES256")
    assert (told(copied), copied.get("SSECustomerKeyMD5")) == ("AES256", None)
    answer = s3.get_object(Bucket=bucket, Key="server")
    assert (answer["Body"].read(), answer["ETag"]) == (body, f'"{hashlib.md5(body).hexdigest()}"')
    where["CopySource"]["Key"] = "server"
    copied = s3.copy_object(Key="back", **where, **with_key(OTHER))
    assert (told(copied), copied["SSECustomerAlgorithm"]) == (None, "AES256")
    assert s3.get_object(Bucket=bucket, Key="back", **with_key(OTHER))["Body"].read() == body
    with refused("InvalidRequest", 400):
        s3.get_object(Bucket=bucket, Key="server", **with_key(KEY))
    # A default is for those who say nothing.
    encrypts(s3, bucket)
    written = s3.put_object(Bucket=bucket, Key="own", Body=b"x", **with_key(KEY))
    assert (told(written), written["SSECustomerAlgorithm"]) == (None, "AES256")


def test_a_bucket_says_how_what_is_written_is_encrypted(node, s3, bucket):
    with refused("ServerSideEncryptionConfigurationNotFoundError", 404):
        s3.get_bucket_encryption(Bucket=bucket)
    assert told(s3.put_object(Bucket=bucket, Key="before", Body=b"open")) is None
    encrypts(s3, bucket)
    [rule] = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    body = pattern(100_000, uuid.uuid4().int)
    assert told(s3.put_object(Bucket=bucket, Key="k", Body=body)) == "AES256"
    assert not on_disk(node, body[50_000:50_064])
    assert told(s3.create_multipart_upload(Bucket=bucket, Key="m")) == "AES256"
    assert told(s3.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": bucket, "Key": "before"})) == "AES256"
    assert told(s3.head_object(Bucket=bucket, Key="before")) is None
    assert status(s3.delete_bucket_encryption(Bucket=bucket)) == 204
    with refused("ServerSideEncryptionConfigurationNotFoundError", 404):
        s3.get_bucket_encryption(Bucket=bucket)
    assert told(s3.put_object(Bucket=bucket, Key="after", Body=b"open")) is None
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body
    assert status(s3.delete_bucket_encryption(Bucket=bucket)) == 204
    for upload in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]:
        s3.abort_multipart_upload(Bucket=bucket, Key="m", UploadId=upload["UploadId"])


def test_a_default_is_that_of_the_bucket_that_is_there_now(s3):
    name = f"test-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=name)
    encrypts(s3, name)
    s3.delete_bucket(Bucket=name)
    with refused("NoSuchBucket", 404):
        s3.get_bucket_encryption(Bucket=name)
    s3.create_bucket(Bucket=name)
    assert told(s3.put_object(Bucket=name, Key="k", Body=b"open")) is None
    s3.delete_object(Bucket=name, Key="k")
    s3.delete_bucket(Bucket=name)


def rules(*defaults):
    inner = "".join(f"<Rule><ApplyServerSideEncryptionByDefault>{default}</ApplyServerSideEncryptionByDefault></Rule>" for default in defaults)
    return f"<ServerSideEncryptionConfiguration>{inner}</ServerSideEncryptionConfiguration>".encode()


@pytest.mark.parametrize("document, state, error", [
    (rules("<SSEAlgorithm>aws:kms</SSEAlgorithm>"), 501, "NotImplemented"),
    (rules("<SSEAlgorithm>aws:kms:dsse</SSEAlgorithm>"), 501, "NotImplemented"),
    (rules("<SSEAlgorithm>AES128</SSEAlgorithm>"), 400, "MalformedXML"),
    (rules("<SSEAlgorithm>AES256</SSEAlgorithm><KMSMasterKeyID>k</KMSMasterKeyID>"), 400, "InvalidArgument"),
    (rules("<SSEAlgorithm>AES256</SSEAlgorithm>", "<SSEAlgorithm>AES256</SSEAlgorithm>"), 400, "MalformedXML"),
    (rules(), 400, "MalformedXML"),
    (b"<ServerSideEncryptionConfiguration><Rule></Rule></ServerSideEncryptionConfiguration>", 400, "MalformedXML"),
    (b"nothing", 400, "MalformedXML"),
], ids=["kms", "dsse", "algorithm", "key", "two", "none", "empty", "no document"])
def test_what_is_no_default_is_refused_and_changes_nothing(node, s3, bucket, document, state, error):
    encrypts(s3, bucket)
    got, _, answer = put_document(node, f"/{bucket}?encryption", document)
    assert (got, code(answer)) == (state, error), answer
    assert told(s3.put_object(Bucket=bucket, Key="k", Body=b"x")) == "AES256"
    with refused("NoSuchBucket", 404):
        s3.put_bucket_encryption(Bucket=missing(), ServerSideEncryptionConfiguration=AES)


@pytest.mark.parametrize("by_default", [False, True], ids=["field", "default"])
def test_a_form_is_encrypted(node, s3, bucket, by_default):
    fields, conditions = {"key": "k"}, []
    if by_default:
        encrypts(s3, bucket)
    else:
        fields["x-amz-server-side-encryption"] = "AES256"
        conditions = [{"x-amz-server-side-encryption": "AES256"}]
    content = pattern(100_000, uuid.uuid4().int)
    state, answered, answer = post(node, bucket, {**fields, **signed_fields(form_policy(bucket, *conditions))}, content)
    assert (state, answered["x-amz-server-side-encryption"]) == (204, "AES256"), answer
    found = s3.get_object(Bucket=bucket, Key="k")
    assert (found["Body"].read(), told(found)) == (content, "AES256")
    assert not on_disk(node, content[50_000:50_064])


def test_a_form_cannot_ask_for_what_there_is_not(node, s3, bucket):
    for method, state in (("aws:kms", 501), ("AES128", 400)):
        conditions = {"x-amz-server-side-encryption": method}
        fields = {"key": "k", **conditions, **signed_fields(form_policy(bucket, conditions))}
        assert post(node, bucket, fields, b"content")[0] == state
    given = {f"x-amz-server-side-encryption-customer-{name}": value for name, value in
             zip(("algorithm", "key", "key-MD5"), with_key(KEY).values())}
    fields = {"key": "k", **given, **signed_fields(form_policy(bucket, *({name: value} for name, value in given.items())))}
    state, _, answer = post(node, bucket, fields, b"content")
    assert (state, code(answer)) == (400, "InvalidRequest"), "keys do not go over plain HTTP"
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_policy_can_demand_encryption(s3, bucket):
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{bucket}/*",
                 "Condition": {"StringNotEquals": {"s3:x-amz-server-side-encryption": "AES256"}}}
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    with refused("AccessDenied", 403):
        s3.put_object(Bucket=bucket, Key="k", Body=b"")
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ServerSideEncryption="AES256")
    s3.delete_bucket_policy(Bucket=bucket)


def test_parts_say_nothing_of_encryption_and_are_told_of_it(node, s3, bucket):
    where = {"Bucket": bucket, "Key": "k"}
    created = s3.create_multipart_upload(**where, ServerSideEncryption="AES256")
    where["UploadId"] = created["UploadId"]
    assert told(created) == told(s3.upload_part(**where, PartNumber=1, Body=b"x")) == "AES256"
    s3.put_object(Bucket=bucket, Key="from", Body=b"y")
    copied = s3.upload_part_copy(**where, PartNumber=2, CopySource={"Bucket": bucket, "Key": "from"})
    assert told(copied) == "AES256"
    path = f"/{bucket}/k?partNumber=1&uploadId={created['UploadId']}"
    state, _, answer = raw(node, "PUT", path, signed(node, "PUT", path, {"x-amz-server-side-encryption": "AES256"}, b"x"), b"x")
    assert (state, code(answer)) == (400, "InvalidArgument")
    s3.abort_multipart_upload(**where)
