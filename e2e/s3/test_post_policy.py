"""Uploads of browser forms, whose policy is signed in place of the request."""

import base64
import datetime
import hashlib
import hmac
import json
import urllib.parse
import xml.etree.ElementTree

import pytest
from botocore.config import Config

from helpers import code, pattern, raw
from node import ACCESS, REGION, SECRET

BOUNDARY = "----the-boundary"


def sign(policy, stamp, secret=SECRET):
    key = b"AWS4" + secret.encode()
    for part in (stamp[:8], REGION, "s3", "aws4_request", policy):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key.hex()


def signed_fields(document, access=ACCESS, secret=SECRET, stamp=None, algorithm="AWS4-HMAC-SHA256"):
    """The fields of a form with any document as its policy."""
    stamp = stamp or datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    fields = {"x-amz-algorithm": algorithm, "x-amz-credential": f"{access}/{stamp[:8]}/{REGION}/s3/aws4_request", "x-amz-date": stamp}
    if isinstance(document, dict):
        # What the signature needs may be in the form as soon as it is in the policy.
        document = {**document, **({"conditions": [*document["conditions"], *({name: value} for name, value in fields.items())]}
                                   if isinstance(document.get("conditions"), list) else {})}
        document = json.dumps(document).encode()
    policy = base64.b64encode(document).decode()
    return {**fields, "policy": policy, "x-amz-signature": sign(policy, stamp, secret)}


def in_an_hour(hours=1):
    return (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def policy(bucket, *conditions, key="k"):
    return {"expiration": in_an_hour(), "conditions": [{"bucket": bucket}, ["eq", "$key", key], *conditions]}


def form(fields, content=b"content", filename="file.txt", after=(), boundary=BOUNDARY):
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value.encode() for name, value in fields.items()]
    if content is not None:
        given = f'; filename="{filename}"' if filename is not None else ""
        parts.append(f'Content-Disposition: form-data; name="file"{given}\r\nContent-Type: text/x-from-browser\r\n\r\n'.encode() + content)
    parts += [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode() for name, value in after]
    return b"".join(b"--" + boundary.encode() + b"\r\n" + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()


def post(node, bucket, fields, *arguments, headers=None, **named):
    body = form(fields, *arguments, **named)
    return raw(node, "POST", f"/{bucket}", {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", **(headers or {})}, body)


def upload(node, bucket, *conditions, content=b"content", key="k", fields=None, **named):
    """A form whose policy allows the key and has these conditions too."""
    given = {"key": key, **(fields or {}), **signed_fields(policy(bucket, *conditions, key=key))}
    return post(node, bucket, given, content, **named)


def read(s3, bucket, key="k"):
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def refusal(s3, bucket, answer):
    """The status and the code of what must have stored nothing."""
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    return answer[0], code(answer[2])


@pytest.mark.parametrize("length", [0, 1, 65_536, 3_000_001])
def test_what_boto3_presigned_is_uploaded(node, s3, bucket, length):
    body = pattern(length)
    presigner = node.client(config=Config(signature_version="s3v4"))
    presigned = presigner.generate_presigned_post(bucket, "a key/\u00fc", ExpiresIn=60)
    assert urllib.parse.urlsplit(presigned["url"]).path.strip("/") == bucket
    status, headers, answer = post(node, bucket, presigned["fields"], body)
    assert (status, answer) == (204, b"")
    assert headers["etag"] == f'"{hashlib.md5(body).hexdigest()}"'
    assert urllib.parse.unquote(headers["location"]).endswith(f"/{bucket}/a key/\u00fc")
    assert read(s3, bucket, "a key/\u00fc") == body


def test_a_file_may_hold_what_looks_like_a_boundary(node, s3, bucket):
    body = f"\r\n--{BOUNDARY[:-1]}\r\n--\r\n\r\n{BOUNDARY}--\r\n--{BOUNDARY}".encode()[:-1] + b"\r\n"
    assert upload(node, bucket, content=body)[0] == 204
    assert read(s3, bucket) == body


def test_a_boundary_may_be_quoted(node, s3, bucket):
    body = form({"key": "k", **signed_fields(policy(bucket))}, boundary="a b:c")
    assert raw(node, "POST", f"/{bucket}", {"Content-Type": 'multipart/form-data; boundary="a b:c"'}, body)[0] == 204
    assert read(s3, bucket) == b"content"


@pytest.mark.parametrize("asked, status", [("200", 200), ("201", 201), ("204", 204), ("404", 204), ("x", 204)])
def test_the_status_of_success_can_be_chosen(node, s3, bucket, asked, status):
    answer = upload(node, bucket, {"success_action_status": asked}, fields={"success_action_status": asked})
    assert answer[0] == status
    if status == 201:
        told = {element.tag.split("}")[-1]: element.text for element in xml.etree.ElementTree.fromstring(answer[2])}
        etag = s3.head_object(Bucket=bucket, Key="k")["ETag"]
        assert (told["Bucket"], told["Key"], told["ETag"]) == (bucket, "k", etag)
        assert urllib.parse.urlsplit(told["Location"]).path.endswith(f"/{bucket}/k")
    else:
        assert answer[2] == b""


@pytest.mark.parametrize("name", ["success_action_redirect", "redirect"])
@pytest.mark.parametrize("to", ["http://app.example.com/done", "http://app.example.com/done?a=1"])
def test_success_can_lead_elsewhere(node, s3, bucket, name, to):
    status, headers, _ = upload(node, bucket, {name: to}, fields={name: to})
    assert status == 303
    place = urllib.parse.urlsplit(headers["location"])
    given = dict(urllib.parse.parse_qsl(place.query))
    assert f"{place.scheme}://{place.netloc}{place.path}" == to.split("?")[0]
    assert given == {**dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(to).query)), "bucket": bucket, "key": "k",
                     "etag": s3.head_object(Bucket=bucket, Key="k")["ETag"]}


def test_a_redirect_that_is_no_address_is_ignored(node, s3, bucket):
    given = "not an address\r\nX-Injected: yes"
    status, headers, _ = upload(node, bucket, ["starts-with", "$success_action_redirect", ""], fields={"success_action_redirect": given})
    assert "x-injected" not in headers
    assert (status, read(s3, bucket)) == (204, b"content")


def test_headers_and_metadata_come_with_the_form(node, s3, bucket):
    given = {"Content-Type": "image/png", "Cache-Control": "max-age=5", "Content-Disposition": "inline", "Content-Encoding": "br",
             "Expires": "Sat, 01 Jan 2050 00:00:00 GMT", "x-amz-meta-Color": "blue"}
    assert upload(node, bucket, *({name: value} for name, value in given.items()), fields=given)[0] == 204
    head = s3.head_object(Bucket=bucket, Key="k")
    told = {name: head["ResponseMetadata"]["HTTPHeaders"][name.lower()] for name in given}
    assert told == given and head["Metadata"] == {"color": "blue"}


def test_tags_come_with_the_form(node, s3, bucket):
    document = "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>"
    assert upload(node, bucket, {"tagging": document}, fields={"tagging": document})[0] == 204
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == [{"Key": "a", "Value": "1"}]


def test_a_form_makes_a_version(node, s3, versioned):
    versions = [upload(node, versioned, content=content)[1]["x-amz-version-id"] for content in (b"1", b"2")]
    assert [s3.get_object(Bucket=versioned, Key="k", VersionId=version)["Body"].read() for version in versions] == [b"1", b"2"]


def test_a_checksum_in_a_form_is_compared(node, s3, bucket):
    def checked(content):
        value = base64.b64encode(hashlib.sha256(content).digest()).decode()
        given = {"x-amz-checksum-sha256": value, "x-amz-checksum-algorithm": "SHA256"}
        return upload(node, bucket, *({name: value} for name, value in given.items()), fields=given)

    assert refusal(s3, bucket, checked(b"other")) == (400, "BadDigest")
    assert checked(b"content")[0] == 204
    assert s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")["ChecksumSHA256"]


@pytest.mark.parametrize("filename, stored", [
    ("photo.png", "user/photo.png"), ("\u00fc b.png", "user/\u00fc b.png"), ("C:\\Users\\x\\photo.png", "user/photo.png"),
    ("/home/x/photo.png", "user/photo.png")])
def test_the_name_of_the_file_is_put_into_the_key(node, s3, bucket, filename, stored):
    document = {"expiration": in_an_hour(), "conditions": [{"bucket": bucket}, ["starts-with", "$key", "user/"]]}
    # Browsers quote a backslash in a name as it is.
    status, _, answer = post(node, bucket, {"key": "user/${filename}", **signed_fields(document)}, filename=filename)
    assert status == 204, answer
    assert read(s3, bucket, stored) == b"content"


def test_boto3s_form_puts_the_name_of_the_file_into_the_key(node, s3, bucket):
    presigner = node.client(config=Config(signature_version="s3v4"))
    presigned = presigner.generate_presigned_post(bucket, "user/${filename}", ExpiresIn=60)
    assert post(node, bucket, presigned["fields"], filename="a.txt")[0] == 204
    assert read(s3, bucket, "user/a.txt") == b"content"


@pytest.mark.parametrize("condition, fields", [
    (["starts-with", "$Content-Type", "image/"], {"Content-Type": "image/png"}),
    (["starts-with", "$Content-Type", ""], {"Content-Type": "anything"}),
    (["eq", "$Content-Type", "image/png"], {"Content-Type": "image/png"}),
    (["starts-with", "$CONTENT-type", "image/"], {"content-TYPE": "image/png"}),
    ({"x-amz-meta-a": "1"}, {"x-amz-meta-a": "1"}), (["content-length-range", 7, 7], {}),
    ({"acl": "private"}, {"acl": "private"}), (["eq", "$bucket", "{bucket}"], {}),
], ids=str)
def test_a_condition_that_holds_lets_it_pass(node, s3, bucket, condition, fields):
    condition = json.loads(json.dumps(condition).replace("{bucket}", bucket))
    status, _, answer = upload(node, bucket, condition, fields=fields)
    assert status == 204, answer
    assert read(s3, bucket) == b"content"


@pytest.mark.parametrize("condition, fields", [
    (["starts-with", "$Content-Type", "image/"], {"Content-Type": "text/png"}), (["starts-with", "$Content-Type", "image/"], {}),
    (["eq", "$Content-Type", "image/png"], {"Content-Type": "image/pn"}), (["eq", "$Content-Type", "image/png"], {"Content-Type": "IMAGE/png"}),
    ({"x-amz-meta-a": "1"}, {"x-amz-meta-a": "2"}), ({"x-amz-meta-a": "1"}, {}), ({"acl": "private"}, {"acl": "public-read"}),
    ({"success_action_status": "201"}, {"success_action_status": "200"}), ({"bucket": "another-bucket"}, {}), (["starts-with", "$key", "user/"], {}),
], ids=str)
def test_a_condition_that_does_not_hold_stores_nothing(node, s3, bucket, condition, fields):
    assert refusal(s3, bucket, upload(node, bucket, condition, fields=fields)) == (403, "AccessDenied")


@pytest.mark.parametrize("limits, content, error", [
    ([0, 6], b"content", "EntityTooLarge"), ([8, 100], b"content", "EntityTooSmall"), ([1, 100], b"", "EntityTooSmall"),
    ([0, 100_000], pattern(3_000_000), "EntityTooLarge")], ids=["large", "small", "empty", "much too large"])
def test_a_file_of_another_length_is_refused(node, s3, bucket, limits, content, error):
    assert refusal(s3, bucket, upload(node, bucket, ["content-length-range", *limits], content=content)) == (400, error)


@pytest.mark.parametrize("fields", [{"x-amz-meta-a": "1"}, {"Content-Type": "text/html"}, {"acl": "private"}, {"something": "else"},
                                    {"success_action_status": "201"}, {"x-amz-storage-class": "STANDARD"}, {"tagging": "<Tagging/>"}], ids=str)
def test_a_field_that_the_policy_does_not_name_is_refused(node, s3, bucket, fields):
    assert refusal(s3, bucket, upload(node, bucket, fields=fields)) == (403, "AccessDenied")


def test_fields_to_be_ignored_are(node, s3, bucket):
    assert upload(node, bucket, fields={"x-ignore-csrf": "token"})[0] == 204
    assert read(s3, bucket) == b"content"


def test_what_comes_behind_the_file_is_ignored(node, s3, bucket):
    status, _, _ = upload(node, bucket, after=[("x-amz-meta-a", "1"), ("submit", "Send")])
    assert status == 204
    assert s3.head_object(Bucket=bucket, Key="k")["Metadata"] == {}
