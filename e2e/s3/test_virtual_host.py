"""Buckets as hosts: http://BUCKET.DOMAIN/KEY."""

import json
import socket
import uuid

import pytest
from botocore.config import Config

from helpers import code, raw, refused, signed, status
from node import Node
from test_post_policy import BOUNDARY, form, policy, signed_fields

DOMAIN = "s3.penstock.test"


@pytest.fixture(scope="module")
def hosted(tmp_path_factory):
    node = Node("--domain", DOMAIN, data=tmp_path_factory.mktemp("hosted"))
    yield node
    node.close()


@pytest.fixture
def s3(hosted, monkeypatch):
    """boto3 with buckets as hosts, whose names lead to this machine."""
    resolve = socket.getaddrinfo

    def here(host, *arguments, **named):
        return resolve("127.0.0.1" if str(host).endswith(DOMAIN) else host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    yield hosted.client(endpoint=f"http://{DOMAIN}:{hosted.address[1]}", config=Config(signature_version="s3v4", s3={"addressing_style": "virtual"}))


@pytest.fixture
def bucket(s3):
    name = f"test-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=name)
    return name


def host(bucket):
    return f"{bucket}.{DOMAIN}"


def test_everything_goes_by_hosts_too(hosted, s3, bucket):
    s3.put_object(Bucket=bucket, Key="a key/ü", Body=b"content")
    assert s3.get_object(Bucket=bucket, Key="a key/ü")["Body"].read() == b"content"
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "a key/ü"})
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["a key/ü", "copy"]
    upload = s3.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    where = {"Bucket": bucket, "Key": "parts", "UploadId": upload}
    part = s3.upload_part(**where, PartNumber=1, Body=b"part")
    s3.complete_multipart_upload(**where, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    assert s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "copy"}]})["Deleted"]
    url = s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "parts"})
    assert url.startswith(f"http://{host(bucket)}:")
    path = url.split(str(hosted.address[1]), 1)[1]
    assert raw(hosted, "GET", path, {"Host": f"{host(bucket)}:{hosted.address[1]}"})[2] == b"part"
    assert bucket in [entry["Name"] for entry in s3.list_buckets()["Buckets"]]
    with refused("NoSuchKey", 404):
        s3.get_object(Bucket=bucket, Key="none")


def test_by_address_the_path_names_the_bucket_as_before(hosted, s3, bucket):
    by_address = hosted.client()
    by_address.put_object(Bucket=bucket, Key="k", Body=b"by address")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"by address"
    s3.head_bucket(Bucket=bucket)


def test_a_signature_is_for_its_host(hosted, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    headers = signed(hosted, "GET", "/k")
    for given in ({**headers, "Host": host(bucket)}, headers):
        state, _, answer = raw(hosted, "GET", "/k", given)
        assert state in (400, 403), answer


def test_policies_rules_and_forms_know_the_bucket(hosted, s3, bucket):
    at = {"Host": host(bucket)}
    s3.put_object(Bucket=bucket, Key="open", Body=b"open")
    assert code(raw(hosted, "GET", "/open", at)[2]) == "AccessDenied"
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/open"}]}))
    assert raw(hosted, "GET", "/open", at)[2] == b"open"
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["https://page.example"]}]})
    asks = {"Origin": "https://page.example", "Access-Control-Request-Method": "GET"}
    assert raw(hosted, "OPTIONS", "/open", {**at, **asks})[0] == 200
    assert raw(hosted, "GET", "/open", {**at, **asks})[1]["access-control-allow-origin"] == "https://page.example"
    body = form({"key": "k", **signed_fields(policy(bucket))})
    state, headers, _ = raw(hosted, "POST", "/", {**at, "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}, body)
    assert state == 204 and headers["location"] == f"http://{host(bucket)}/k"
    assert status(s3.head_object(Bucket=bucket, Key="k")) == 200
