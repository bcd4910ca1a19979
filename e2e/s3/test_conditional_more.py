import concurrent.futures
import datetime

import pytest
from botocore.config import Config

from helpers import code, headers, pattern, presigned_path, raw, refused, status
from test_multipart import Upload
from test_versioning import listed

OTHER = '"' + "0" * 32 + '"'
HOUR = datetime.timedelta(hours=1)


@pytest.fixture
def etag(s3, bucket):
    return s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]


def modified(s3, bucket):
    return s3.head_object(Bucket=bucket, Key="k")["LastModified"]


def there(s3, bucket, key="k"):
    return key in [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]


@pytest.mark.parametrize("form", ["{}", "*", "bare"])
def test_deleting_only_what_is_there(s3, bucket, etag, form):
    given = etag.strip('"') if form == "bare" else form.format(etag)
    assert status(s3.delete_object(Bucket=bucket, Key="k", IfMatch=given)) == 204
    assert not there(s3, bucket)


def test_what_has_changed_is_not_deleted(s3, bucket, etag):
    with refused("PreconditionFailed", 412):
        s3.delete_object(Bucket=bucket, Key="k", IfMatch=OTHER)
    s3.put_object(Bucket=bucket, Key="k", Body=b"y")
    with refused("PreconditionFailed", 412):
        s3.delete_object(Bucket=bucket, Key="k", IfMatch=etag)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"y"


@pytest.mark.parametrize("given", [OTHER, "*"])
def test_what_is_not_there_is_not_deleted_on_a_condition(s3, bucket, given):
    with refused("NoSuchKey", 404):
        s3.delete_object(Bucket=bucket, Key="none", IfMatch=given)


def test_a_marker_is_made_only_over_that_version(s3, versioned):
    first = s3.put_object(Bucket=versioned, Key="k", Body=b"1")
    second = s3.put_object(Bucket=versioned, Key="k", Body=b"2")
    with refused("PreconditionFailed", 412):
        s3.delete_object(Bucket=versioned, Key="k", IfMatch=first["ETag"])
    assert s3.delete_object(Bucket=versioned, Key="k", IfMatch=second["ETag"])["DeleteMarker"]
    # Under a marker there is nothing to match.
    for given in ("*", second["ETag"], OTHER):
        with refused("NoSuchKey", 404):
            s3.delete_object(Bucket=versioned, Key="k", IfMatch=given)
    assert len(s3.list_object_versions(Bucket=versioned)["DeleteMarkers"]) == 1
    assert listed(s3, versioned) == [second["VersionId"], first["VersionId"]]


def test_a_condition_is_for_what_is_current_only(s3, versioned):
    """As AWS has it: a version that is named, even the current one, is not deleted on a condition."""
    written = s3.put_object(Bucket=versioned, Key="k", Body=b"1")
    with refused("NotImplemented", 501):
        s3.delete_object(Bucket=versioned, Key="k", VersionId=written["VersionId"], IfMatch=written["ETag"])
    assert listed(s3, versioned) == [written["VersionId"]]


def test_many_are_deleted_each_on_its_condition(s3, bucket):
    tags = {key: s3.put_object(Bucket=bucket, Key=key, Body=key.encode())["ETag"] for key in "abcd"}
    named = [{"Key": "a", "ETag": tags["a"]}, {"Key": "b", "ETag": tags["a"]}, {"Key": "c"}, {"Key": "d", "ETag": "*"},
             {"Key": "none", "ETag": tags["a"]}]
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": named})
    assert [entry["Key"] for entry in answer["Deleted"]] == ["a", "c", "d"]
    errors = {entry["Key"]: entry["Code"] for entry in answer["Errors"]}
    assert errors["b"] == "PreconditionFailed"
    assert errors["none"] in ("NoSuchKey", "PreconditionFailed") and len(errors) == 2
    assert [key for key in "abcd" if there(s3, bucket, key)] == ["b"]


def test_of_many_deletions_of_a_version_one_wins(s3, versioned):
    etag = s3.put_object(Bucket=versioned, Key="k", Body=b"x")["ETag"]

    def delete(_):
        try:
            s3.delete_object(Bucket=versioned, Key="k", IfMatch=etag)
            return 1
        except s3.exceptions.ClientError as error:
            assert status(error.response) in (404, 409, 412)
            return 0

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(delete, range(24))) == 1
    assert len(s3.list_object_versions(Bucket=versioned)["DeleteMarkers"]) == 1


# By the entity tag and the date of the source; None where the copy is made.
SOURCE = [
    (lambda tag, date: {"CopySourceIfMatch": tag}, None), (lambda tag, date: {"CopySourceIfMatch": "*"}, None),
    (lambda tag, date: {"CopySourceIfMatch": OTHER}, 412),
    (lambda tag, date: {"CopySourceIfNoneMatch": OTHER}, None), (lambda tag, date: {"CopySourceIfNoneMatch": tag}, 412),
    (lambda tag, date: {"CopySourceIfModifiedSince": date - HOUR}, None), (lambda tag, date: {"CopySourceIfModifiedSince": date}, 412),
    (lambda tag, date: {"CopySourceIfUnmodifiedSince": date}, None), (lambda tag, date: {"CopySourceIfUnmodifiedSince": date - HOUR}, 412),
    # An entity tag wins over a date, as in reads.
    (lambda tag, date: {"CopySourceIfMatch": tag, "CopySourceIfUnmodifiedSince": date - HOUR}, None),
    (lambda tag, date: {"CopySourceIfNoneMatch": tag, "CopySourceIfModifiedSince": date - HOUR}, 412),
    (lambda tag, date: {"CopySourceIfMatch": OTHER, "CopySourceIfUnmodifiedSince": date}, 412),
]
NAMES = ["match", "any", "no match", "none match", "one matches", "modified", "not modified", "unmodified", "not unmodified",
         "match and date", "one matches and date", "no match and date"]


@pytest.mark.parametrize("condition, expected", SOURCE, ids=NAMES)
@pytest.mark.parametrize("operation", ["copy", "part"])
def test_copying_only_from_that_version(s3, bucket, etag, operation, condition, expected):
    given = {"CopySource": {"Bucket": bucket, "Key": "k"}, **condition(etag, modified(s3, bucket))}
    if operation == "copy":
        copy = lambda: s3.copy_object(Bucket=bucket, Key="c", **given)
    else:
        upload = Upload(s3, bucket, "c")
        copy = lambda: s3.upload_part_copy(**upload.where, PartNumber=1, **given)
    if expected is None:
        assert status(copy()) == 200
    else:
        with refused("PreconditionFailed", expected):
            copy()
        assert not there(s3, bucket, "c")


def test_conditions_on_a_source_look_at_the_version_that_is_named(s3, versioned):
    first = s3.put_object(Bucket=versioned, Key="k", Body=b"1")
    second = s3.put_object(Bucket=versioned, Key="k", Body=b"2")
    source = {"Bucket": versioned, "Key": "k", "VersionId": first["VersionId"]}
    s3.copy_object(Bucket=versioned, Key="c", CopySource=source, CopySourceIfMatch=first["ETag"])
    with refused("PreconditionFailed", 412):
        s3.copy_object(Bucket=versioned, Key="c", CopySource=source, CopySourceIfMatch=second["ETag"])


def test_copying_only_where_there_is_nothing(s3, bucket, etag):
    source = {"Bucket": bucket, "Key": "k"}
    s3.copy_object(Bucket=bucket, Key="c", CopySource=source, IfNoneMatch="*")
    s3.put_object(Bucket=bucket, Key="c", Body=b"kept")
    with refused("PreconditionFailed", 412):
        s3.copy_object(Bucket=bucket, Key="c", CopySource=source, IfNoneMatch="*")
    assert s3.get_object(Bucket=bucket, Key="c")["Body"].read() == b"kept"


def test_copying_only_over_that_version(s3, bucket, etag):
    source = {"Bucket": bucket, "Key": "k"}
    with refused("NoSuchKey", 404):
        s3.copy_object(Bucket=bucket, Key="c", CopySource=source, IfMatch=etag)
    other = s3.put_object(Bucket=bucket, Key="c", Body=b"kept")["ETag"]
    with refused("PreconditionFailed", 412):
        s3.copy_object(Bucket=bucket, Key="c", CopySource=source, IfMatch=etag)
    assert s3.get_object(Bucket=bucket, Key="c")["Body"].read() == b"kept"
    s3.copy_object(Bucket=bucket, Key="c", CopySource=source, IfMatch=other)
    assert s3.get_object(Bucket=bucket, Key="c")["Body"].read() == b"x"


def test_completing_only_over_that_version(s3, bucket, etag):
    upload = Upload(s3, bucket)
    upload.part(1, b"new")
    with refused("PreconditionFailed", 412):
        upload.complete(IfMatch=OTHER)
    upload.complete(IfMatch=etag)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"new"


@pytest.mark.parametrize("asked, first, last", [("bytes=0-0", 0, 0), ("bytes=5-", 5, 999), ("bytes=-7", 993, 999), ("bytes=990-5000", 990, 999)])
def test_the_head_of_a_range(s3, bucket, asked, first, last):
    s3.put_object(Bucket=bucket, Key="k", Body=pattern(1000))
    answer = s3.head_object(Bucket=bucket, Key="k", Range=asked)
    assert (status(answer), answer["ContentLength"]) == (206, last - first + 1)
    assert headers(answer)["content-range"] == f"bytes {first}-{last}/1000"


@pytest.mark.parametrize("asked", ["bytes=1000-", "bytes=-0"])
def test_the_head_of_a_range_beyond_the_end_is_refused(s3, bucket, asked):
    s3.put_object(Bucket=bucket, Key="k", Body=pattern(1000))
    with refused("416", 416):
        s3.head_object(Bucket=bucket, Key="k", Range=asked)


OVERRIDES = {"ContentType": "text/x-other", "ContentLanguage": "mi, en", "Expires": "Wed, 01 Dec 2094 16:00:00 GMT", "CacheControl": "no-store",
             "ContentDisposition": 'attachment; filename="x y.txt"', "ContentEncoding": "br"}


def wire(name):
    return "".join("-" * (n > 0 and c.isupper()) + c.lower() for n, c in enumerate(name))


@pytest.mark.parametrize("name", OVERRIDES)
@pytest.mark.parametrize("operation", ["get_object", "head_object"])
def test_each_header_of_an_answer_can_be_overridden(s3, bucket, operation, name):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ContentType="text/plain", CacheControl="max-age=1", ContentLanguage="de",
                  ContentEncoding="gzip", ContentDisposition="inline", Expires=datetime.datetime(2050, 1, 1))
    answer = headers(getattr(s3, operation)(Bucket=bucket, Key="k", **{f"Response{name}": OVERRIDES[name]}))
    assert answer[wire(name)] == OVERRIDES[name]
    assert (answer["content-type"] == "text/plain") == (name != "ContentType")
    # And only in that answer.
    assert headers(s3.head_object(Bucket=bucket, Key="k"))[wire(name)] != OVERRIDES[name]


def test_a_presigned_url_says_how_a_file_is_saved(node, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    disposition = "attachment; filename*=UTF-8''%C3%BC.txt"
    presigner = node.client(config=Config(signature_version="s3v4"))
    url = presigner.generate_presigned_url("get_object", Params={
        "Bucket": bucket, "Key": "k", "ResponseContentDisposition": disposition, "ResponseContentType": "text/x-other"})
    state, answered, body = raw(node, "GET", url.removeprefix(node.endpoint))
    assert (state, body, answered["content-disposition"], answered["content-type"]) == (200, b"x", disposition, "text/x-other")
    # Who has no key cannot change what was signed.
    state, _, body = raw(node, "GET", url.removeprefix(node.endpoint).replace("text%2Fx-other", "text%2Fhtml"))
    assert (state, code(body)) == (403, "SignatureDoesNotMatch")
    state, _, body = raw(node, "GET", presigned_path(node, "GET", f"/{bucket}/k") + "&response-content-type=text/html")
    assert (state, code(body)) == (403, "SignatureDoesNotMatch")


def test_an_overriding_header_breaks_no_line(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    with pytest.raises(s3.exceptions.ClientError) as caught:
        s3.get_object(Bucket=bucket, Key="k", ResponseContentType="text/plain\r\nX-Injected: yes")
    assert status(caught.value.response) == 400
    assert "x-injected" not in headers(caught.value.response)


KEPT = {"Expires": datetime.datetime(2050, 1, 1, tzinfo=datetime.timezone.utc), "WebsiteRedirectLocation": "/elsewhere", "ContentLanguage": "de",
        "CacheControl": "no-cache", "ContentEncoding": "gzip", "ContentDisposition": "inline", "ContentType": "text/plain"}


def found(s3, bucket, key="k"):
    answers = s3.head_object(Bucket=bucket, Key=key), s3.get_object(Bucket=bucket, Key=key)
    both = [{name: answer[name] for name in KEPT if name in answer} for answer in answers]
    assert both[0] == both[1]
    return both[0]


@pytest.mark.parametrize("way", ["put", "multipart", "copy"])
def test_what_an_object_says_of_itself_is_kept(s3, bucket, way):
    if way == "put":
        s3.put_object(Bucket=bucket, Key="k", Body=b"x", **KEPT)
    elif way == "multipart":
        upload = Upload(s3, bucket, **KEPT)
        upload.part(1, b"x")
        upload.complete()
    else:
        s3.put_object(Bucket=bucket, Key="from", Body=b"x")
        s3.copy_object(Bucket=bucket, Key="k", CopySource={"Bucket": bucket, "Key": "from"}, MetadataDirective="REPLACE", **KEPT)
    assert found(s3, bucket) == KEPT
    assert headers(s3.head_object(Bucket=bucket, Key="k"))["x-amz-website-redirect-location"] == "/elsewhere"


def test_a_copy_keeps_all_but_where_to_go(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", **KEPT)
    s3.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": bucket, "Key": "k"})
    assert found(s3, bucket, "c") == {name: value for name, value in KEPT.items() if name != "WebsiteRedirectLocation"}
    s3.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": bucket, "Key": "k"}, WebsiteRedirectLocation="https://example.com/")
    assert found(s3, bucket, "c")["WebsiteRedirectLocation"] == "https://example.com/"


def test_an_object_without_these_says_nothing(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert set(found(s3, bucket)) == {"ContentType"}


@pytest.mark.parametrize("place", ["elsewhere", "ftp://example.com/", "javascript:alert(1)"])
def test_a_redirect_to_no_place_is_refused(s3, bucket, place):
    with refused("InvalidRedirectLocation", 400):
        s3.put_object(Bucket=bucket, Key="k", Body=b"x", WebsiteRedirectLocation=place)
    assert not there(s3, bucket)
