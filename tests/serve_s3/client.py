"""boto3 against a server, one check a run: `client.py CHECK ADDRESS [WORD…]`."""

import base64
import datetime
import hashlib
import io
import sys
import urllib.error
import urllib.parse
import urllib.request

import boto3
import botocore
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

BUCKET = "some-bucket"
ONCE = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
ODD = ["a b", "#1 100%", "grüße/日本", "a+b&c=d?e", "quo'te\"s", "tab\there", "é\u0301", "~-_.!*()"]


def client(url, secret="secret", id="id", config=ONCE, **more):
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=id,
        aws_secret_access_key=secret,
        config=config,
        **more,
    )


def refused(ask, *codes):
    """The error that `ask` ends with: it must be one of these."""
    try:
        ask()
    except ClientError as error:
        assert error.response["Error"]["Code"] in codes, error
        return error
    raise AssertionError(f"none of {codes}")


def http(url, method="GET", body=None, headers=None):
    request = urllib.request.Request(url, data=body, method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def read(s3, key, **more):
    return s3.get_object(Bucket=BUCKET, Key=key, **more)["Body"].read()


def objects(url):
    s3 = client(url)
    error = refused(lambda: s3.head_object(Bucket=BUCKET, Key="none"), "404")
    refused(lambda: s3.get_object(Bucket=BUCKET, Key="none/at all"), "NoSuchKey")
    for key in ODD:
        s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
    for key in ODD:
        assert read(s3, key) == key.encode(), key
        assert s3.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == len(key.encode())
    listed = s3.list_objects_v2(Bucket=BUCKET)["Contents"]
    assert [item["Key"] for item in listed] == sorted(ODD, key=str.encode)
    s3.put_object(Bucket=BUCKET, Key="empty", Body=b"")
    assert read(s3, "empty") == b""
    data = bytes(range(256)) * 4000
    put = s3.put_object(Bucket=BUCKET, Key="data", Body=data)
    head = s3.head_object(Bucket=BUCKET, Key="data")
    assert head["ETag"] == put["ETag"] and put["ETag"].startswith('"')
    # Nobody may take it for an MD5, or for one of parts.
    assert len(put["ETag"].strip('"').split("-")[0]) != 32
    part = s3.get_object(Bucket=BUCKET, Key="data", Range="bytes=1000-1999")
    assert part["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert part["ContentRange"] == f"bytes 1000-1999/{len(data)}"
    assert part["Body"].read() == data[1000:2000]
    assert read(s3, "data", Range="bytes=-7") == data[-7:]
    refused(lambda: read(s3, "data", Range=f"bytes={len(data)}-"), "InvalidRange")
    summed = s3.get_object(Bucket=BUCKET, Key="data", ChecksumMode="ENABLED")
    assert summed["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(data).digest()).decode()
    assert summed["Body"].read() == data


def conditions(url):
    s3 = client(url)
    put = lambda body, **more: s3.put_object(Bucket=BUCKET, Key="k", Body=body, **more)
    one = put(b"1", IfNoneMatch="*")["ETag"]
    refused(lambda: put(b"2", IfNoneMatch="*"), "PreconditionFailed")
    refused(lambda: put(b"2", IfMatch='"other"'), "PreconditionFailed")
    two = put(b"2", IfMatch=one)["ETag"]
    assert one != two
    refused(lambda: read(s3, "k", IfMatch=one), "PreconditionFailed")
    refused(lambda: read(s3, "k", IfNoneMatch=two), "304")
    assert read(s3, "k", IfNoneMatch=one) == b"2"
    now = s3.head_object(Bucket=BUCKET, Key="k")["LastModified"]
    refused(lambda: read(s3, "k", IfModifiedSince=now), "304")
    hour = datetime.timedelta(hours=1)
    refused(lambda: read(s3, "k", IfUnmodifiedSince=now - hour), "PreconditionFailed")
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    refused(lambda: put(b"3", ContentMD5=wrong), "BadDigest")
    refused(lambda: put(b"3", ChecksumCRC32="AAAAAA=="), "BadDigest")
    assert read(s3, "k") == b"2"
    right = base64.b64encode(hashlib.md5(b"3").digest()).decode()
    put(b"3", ContentMD5=right)
    for algorithm in ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]:
        try:
            told = put(b"4", ChecksumAlgorithm=algorithm)
        except botocore.exceptions.MissingDependencyException:
            continue
        assert told[f"Checksum{algorithm}"], told
    copy = lambda **more: s3.copy_object(
        Bucket=BUCKET, Key="copy", CopySource=f"{BUCKET}/k", **more
    )
    refused(lambda: copy(CopySourceIfMatch=one), "PreconditionFailed")
    copy()
    assert read(s3, "copy") == b"4"
    refused(lambda: s3.copy_object(Bucket=BUCKET, Key="x", CopySource=f"{BUCKET}/no"), "NoSuchKey")
    # What would not be kept is not taken.
    refused(lambda: put(b"5", ServerSideEncryption="AES256"), "NotImplemented")
    refused(lambda: put(b"5", WriteOffsetBytes=1), "NotImplemented")
    refused(lambda: read(s3, "k", VersionId="abc"), "NoSuchVersion")
    refused(lambda: s3.get_object_tagging(Bucket=BUCKET, Key="k"), "NotImplemented")


def names(url):
    """Names that are not served, and names that a directory cannot have."""
    s3 = client(url)
    put = lambda key: s3.put_object(Bucket=BUCKET, Key=key, Body=b"evil")
    for key in [".larder/x", "a/.larder", ".LARDER/x", ".fxcache_index.db", "link/new"]:
        refused(lambda: put(key), "AccessDenied", "InvalidArgument")
        refused(lambda: s3.get_object(Bucket=BUCKET, Key=key), "NoSuchKey", "AccessDenied")
    for key in ["a//b", "../x", "a/../../x", "./x", "x/", "n" * 256]:
        refused(lambda: put(key), "InvalidArgument", "KeyTooLongError")
        refused(lambda: s3.get_object(Bucket=BUCKET, Key=key), "NoSuchKey")
    refused(lambda: s3.get_object(Bucket=BUCKET, Key="link/secret"), "NoSuchKey", "AccessDenied")
    s3.put_object(Bucket=BUCKET, Key="marker/", Body=b"")
    refused(lambda: s3.head_object(Bucket=BUCKET, Key="marker/"), "404")
    put("dir/file")
    refused(lambda: put("dir"), "InvalidArgument")
    refused(lambda: put("dir/file/below"), "InvalidArgument")
    refused(lambda: s3.get_object(Bucket=BUCKET, Key="dir"), "NoSuchKey")
    source = {"Bucket": BUCKET, "Key": ".larder/serve.db"}
    refused(lambda: s3.copy_object(Bucket=BUCKET, Key="stolen", CopySource=source), "NoSuchKey")
    refused(lambda: s3.copy_object(Bucket=BUCKET, Key="stolen", CopySource=f"{BUCKET}/link/secret"),
            "NoSuchKey", "AccessDenied")


def times(url):
    s3 = client(url)
    meta = {"mtime": "1234567890.123456789", "other": "not kept"}
    s3.put_object(Bucket=BUCKET, Key="t", Body=b"1", Metadata=meta)
    head = s3.head_object(Bucket=BUCKET, Key="t")
    assert head["Metadata"] == {"mtime": "1234567890.123456789"}
    assert head["LastModified"].timestamp() == 1234567890
    s3.copy_object(Bucket=BUCKET, Key="copy", CopySource=f"{BUCKET}/t")
    assert s3.head_object(Bucket=BUCKET, Key="copy")["Metadata"] == head["Metadata"]
    s3.copy_object(
        Bucket=BUCKET,
        Key="copy",
        CopySource=f"{BUCKET}/copy",
        MetadataDirective="REPLACE",
        Metadata={"mtime": "7.5"},
    )
    assert s3.head_object(Bucket=BUCKET, Key="copy")["Metadata"] == {"mtime": "7.5"}
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix="t")["Contents"][0]["LastModified"]
    assert listed == head["LastModified"]
    s3.put_object(Bucket=BUCKET, Key="old", Body=b"1", Metadata={"mtime": "-1.5"})
    old = s3.head_object(Bucket=BUCKET, Key="old")
    assert old["Metadata"] == {"mtime": "-1.5"} and old["LastModified"].timestamp() == 0
    assert s3.list_objects_v2(Bucket=BUCKET, Prefix="old")["Contents"][0]["LastModified"] == old["LastModified"]
    config = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
    extra = {"Metadata": {"mtime": "99.25"}}
    s3.upload_fileobj(io.BytesIO(bytes(6 << 20)), BUCKET, "parts", ExtraArgs=extra, Config=config)
    assert s3.head_object(Bucket=BUCKET, Key="parts")["Metadata"] == {"mtime": "99.25"}


def listing(url):
    s3 = client(url)
    keys = [f"d{d}/{n:03}" for d in range(3) for n in range(40)] + ["a #1", "z+ü"]
    for key in keys:
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"12")
    keys.sort(key=str.encode)
    pages = lambda verb, **more: list(s3.get_paginator(verb).paginate(Bucket=BUCKET, **more))
    for verb in ["list_objects_v2", "list_objects"]:
        for size in [1, 7, 1000]:
            found = pages(verb, PaginationConfig={"PageSize": size})
            assert [item["Key"] for page in found for item in page.get("Contents", [])] == keys
            assert all(len(page.get("Contents", [])) <= size for page in found)
        for size in [1, 2, 1000]:
            found = pages(verb, Delimiter="/", PaginationConfig={"PageSize": size})
            groups = [g["Prefix"] for page in found for g in page.get("CommonPrefixes", [])]
            assert groups == ["d0/", "d1/", "d2/"], (verb, size, groups)
            names = [item["Key"] for page in found for item in page.get("Contents", [])]
            assert names == ["a #1", "z+ü"], names
    ask = lambda **more: s3.list_objects_v2(Bucket=BUCKET, **more)
    beneath = ask(Prefix="d1/", Delimiter="/")
    assert beneath["KeyCount"] == 40 and beneath["Contents"][0]["Size"] == 2
    assert ask(Prefix="d1/03")["KeyCount"] == 10
    assert [i["Key"] for i in ask(StartAfter="d2/038")["Contents"]] == ["d2/039", "z+ü"]
    assert ask(Prefix="none")["KeyCount"] == 0 and ask(MaxKeys=0)["KeyCount"] == 0
    etag = s3.head_object(Bucket=BUCKET, Key="a #1")["ETag"]
    assert ask(Prefix="a ")["Contents"][0]["ETag"] == etag
    refused(lambda: ask(ContinuationToken="%"), "InvalidArgument")
    refused(lambda: ask(MaxKeys=-1), "InvalidArgument")


def multipart(url):
    s3 = client(url)
    begin = lambda key: s3.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    send = lambda key, id, n, body, **more: s3.upload_part(
        Bucket=BUCKET, Key=key, UploadId=id, PartNumber=n, Body=body, **more
    )["ETag"]

    def complete(key, id, tags, **more):
        parts = [{"PartNumber": n, "ETag": tag} for n, tag in tags]
        return s3.complete_multipart_upload(
            Bucket=BUCKET, Key=key, UploadId=id, MultipartUpload={"Parts": parts}, **more
        )

    id = begin("m/x")
    two = send("m/x", id, 2, b"two")
    send("m/x", id, 1, b"lost")
    one = send("m/x", id, 1, b"one ")
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    refused(lambda: send("m/x", id, 3, b"three", ContentMD5=wrong), "BadDigest")
    # Nothing of it is seen before the end.
    assert s3.list_objects_v2(Bucket=BUCKET)["KeyCount"] == 0
    refused(lambda: s3.head_object(Bucket=BUCKET, Key="m/x"), "404")
    refused(lambda: complete("m/x", id, [(2, two), (1, one)]), "InvalidPartOrder")
    refused(lambda: complete("m/x", id, [(1, two), (2, two)]), "InvalidPart")
    refused(lambda: complete("m/x", id, [(1, one), (3, two)]), "InvalidPart")
    refused(lambda: complete("m/y", id, [(1, one)]), "NoSuchUpload")
    s3.put_object(Bucket=BUCKET, Key="m/x", Body=b"first")
    refused(lambda: complete("m/x", id, [(1, one), (2, two)], IfNoneMatch="*"), "PreconditionFailed")
    done = complete("m/x", id, [(1, one), (2, two)])
    assert read(s3, "m/x") == b"one two"
    # A client that did not hear the answer asks again.
    assert complete("m/x", id, [(1, one), (2, two)])["ETag"] == done["ETag"]
    refused(lambda: send("m/x", id, 1, b"late"), "NoSuchUpload")
    id = begin("m/gone")
    send("m/gone", id, 1, b"1")
    s3.abort_multipart_upload(Bucket=BUCKET, Key="m/gone", UploadId=id)
    refused(lambda: complete("m/gone", id, [(1, one)]), "NoSuchUpload")
    refused(lambda: send("m/x", "0" * 32, 1, b"1"), "NoSuchUpload")
    refused(lambda: send("m/x", begin("m/x"), 10_001, b"1"), "InvalidArgument")
    data = hashlib.sha512(b"x").digest() * 160_000
    s3.upload_fileobj(io.BytesIO(data), BUCKET, "m/big")
    assert read(s3, "m/big") == data
    s3.copy({"Bucket": BUCKET, "Key": "m/big"}, BUCKET, "m/copy")
    assert read(s3, "m/copy") == data
    into = io.BytesIO()
    s3.download_fileobj(BUCKET, "m/big", into)
    assert into.getvalue() == data


def half(url):
    """Leaves an upload in the middle, and says its name."""
    s3 = client(url)
    id = s3.create_multipart_upload(Bucket=BUCKET, Key="half")["UploadId"]
    for n in [1, 2]:
        s3.upload_part(Bucket=BUCKET, Key="half", UploadId=id, PartNumber=n, Body=b"x" * 100_000)
    print(id)


def gone(url, id):
    s3 = client(url)
    ask = lambda: s3.upload_part(Bucket=BUCKET, Key="half", UploadId=id, PartNumber=3, Body=b"x")
    refused(ask, "NoSuchUpload")
    refused(lambda: s3.head_object(Bucket=BUCKET, Key="half"), "404")
    assert s3.list_objects_v2(Bucket=BUCKET)["KeyCount"] == 0


def deletes(url):
    s3 = client(url)
    for n in range(5):
        s3.put_object(Bucket=BUCKET, Key=f"d/{n}", Body=b"1")
    delete = lambda key, **more: s3.delete_object(Bucket=BUCKET, Key=key, **more)
    refused(lambda: delete("d/0", IfMatch='"other"'), "PreconditionFailed")
    refused(lambda: delete("d/0", VersionId="abc"), "NoSuchVersion")
    delete("d/0")
    for nothing in ["d/0", "d", "none/x", "a//b"]:
        delete(nothing)
    asked = [{"Key": key} for key in ["d/1", "d/2", "none"]] + [{"Key": "d/3", "ETag": '"other"'}]
    told = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": asked})
    assert [item["Key"] for item in told["Deleted"]] == ["d/1", "d/2", "none"]
    assert [(e["Key"], e["Code"]) for e in told["Errors"]] == [("d/3", "PreconditionFailed")]
    assert [i["Key"] for i in s3.list_objects_v2(Bucket=BUCKET)["Contents"]] == ["d/3", "d/4"]


def kept(url):
    """Of a server that does not delete."""
    s3 = client(url)
    s3.put_object(Bucket=BUCKET, Key="k", Body=b"1")
    refused(lambda: s3.delete_object(Bucket=BUCKET, Key="k"), "AccessDenied")
    told = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "k"}]})
    assert told["Errors"][0]["Code"] == "AccessDenied" and "Deleted" not in told
    assert read(s3, "k") == b"1"


def keys(url, secret):
    """A server with a key for writers: everybody reads, unless he pretends to be somebody."""
    s3 = client(url, secret)
    s3.put_object(Bucket=BUCKET, Key="k", Body=b"1")
    anybody = client(url, config=ONCE.merge(Config(signature_version=botocore.UNSIGNED)))
    assert read(anybody, "k") == b"1"
    refused(lambda: anybody.put_object(Bucket=BUCKET, Key="k", Body=b"2"), "AccessDenied")
    wrong = client(url, "wrong")
    refused(lambda: wrong.get_object(Bucket=BUCKET, Key="k"), "SignatureDoesNotMatch")
    big = io.BytesIO(bytes(3 << 20))
    refused(lambda: wrong.put_object(Bucket=BUCKET, Key="k", Body=big), "SignatureDoesNotMatch")
    fourth = client(url, secret, config=ONCE.merge(Config(signature_version="s3v4")))
    signed = fourth.generate_presigned_url("get_object", {"Bucket": BUCKET, "Key": "k"})
    assert http(signed)[:2] == (200, b"1")
    assert http(signed.replace("/k?", "/l?"))[0] == 403
    old = client(url, secret, config=Config(signature_version="s3", retries={"total_max_attempts": 1}))
    refused(lambda: old.get_object(Bucket=BUCKET, Key="k"), "InvalidRequest")
    second = s3.generate_presigned_url("get_object", {"Bucket": BUCKET, "Key": "k"})
    assert b"AWS4-HMAC-SHA256" in http(second)[1]
    write = fourth.generate_presigned_url("put_object", {"Bucket": BUCKET, "Key": "k"})
    assert http(write, "PUT", b"2")[0] == 200 and read(s3, "k") == b"2"
    for _ in range(10):
        refused(lambda: wrong.get_object(Bucket=BUCKET, Key="k"), "SignatureDoesNotMatch", "AccessDenied")
    # Even the right one now, for a minute; the unsigned may go on reading.
    refused(lambda: s3.put_object(Bucket=BUCKET, Key="k", Body=b"3"), "AccessDenied")
    assert read(anybody, "k") == b"2"


def readers(url, secret, read_secret):
    """A server with a key for readers, too."""
    writer, reader = client(url, secret), client(url, read_secret, "read")
    writer.put_object(Bucket=BUCKET, Key="k", Body=b"1")
    assert read(writer, "k") == b"1" and read(reader, "k") == b"1"
    refused(lambda: reader.put_object(Bucket=BUCKET, Key="k", Body=b"2"), "AccessDenied")
    refused(lambda: reader.delete_object(Bucket=BUCKET, Key="k"), "AccessDenied")
    # The readers' key is none for anybody else, and the writers' none for readers.
    refused(lambda: read(client(url, read_secret, "id"), "k"), "SignatureDoesNotMatch")
    refused(lambda: read(client(url, secret, "read"), "k"), "SignatureDoesNotMatch")
    anybody = client(url, config=ONCE.merge(Config(signature_version=botocore.UNSIGNED)))
    for ask in [lambda: read(anybody, "k"), lambda: anybody.list_objects_v2(Bucket=BUCKET)]:
        refused(ask, "AccessDenied")


def buckets(url, name):
    s3 = client(url)
    s3.head_bucket(Bucket=name)
    assert s3.get_bucket_location(Bucket=name)["LocationConstraint"] is None
    assert [b["Name"] for b in s3.list_buckets()["Buckets"]] == [name]
    refused(lambda: s3.create_bucket(Bucket=name), "BucketAlreadyOwnedByYou")
    s3.put_object(Bucket=name, Key="k", Body=b"1")
    for ask in [s3.list_objects_v2, s3.head_bucket]:
        refused(lambda: ask(Bucket="other"), "NoSuchBucket", "404")
    refused(lambda: s3.put_object(Bucket="other", Key="k", Body=b"1"), "NoSuchBucket")
    refused(lambda: s3.copy_object(Bucket=name, Key="l", CopySource="other/k"), "NoSuchBucket")


def languages(url):
    """All three protocols at one port see the same files in the same versions."""
    s3 = client(url)
    etag = s3.put_object(Bucket=BUCKET, Key="p/s 3", Body=b"from s3")["ETag"]
    status, body, headers = http(f"{url}/v1/files/p/s%203")
    assert (status, body, headers["ETag"]) == (200, b"from s3", etag)
    assert http(f"{url}/download?path=p/s%203")[1] == b"from s3"
    assert http(f"{url}/v1/files/p/native", "PUT", b"native")[0] == 201
    assert http(f"{url}/upload?path=p/fxcache", "POST", b"fxcache")[0] == 200
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix="p/")["Contents"]
    assert [item["Key"] for item in listed] == ["p/fxcache", "p/native", "p/s 3"]
    assert read(s3, "p/native") == b"native" and read(s3, "p/fxcache") == b"fxcache"
    etag = s3.head_object(Bucket=BUCKET, Key="p/native")["ETag"]
    assert http(f"{url}/v1/files/p/native", "PUT", b"2", {"If-Match": etag})[0] == 200
    # The page for people is where it was, and knows who came.
    assert b"<html" in http(f"{url}/")[1]
    page = http(f"{url}/v1/page")[1]
    assert b'"what":"upload","path":"p/s 3"' in page, page


def chunked(url):
    """Bodies in pieces, with what comes after them, from clients that the server cannot verify."""
    s3 = client(url)
    crc = "NhCmhg=="  # of "hello"
    body = b"3\r\nhel\r\n2;chunk-signature=00\r\nlo\r\n0\r\nx-amz-checksum-crc32:%s\r\n\r\n"
    headers = {
        "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "x-amz-decoded-content-length": "5",
        "x-amz-trailer": "x-amz-checksum-crc32",
        "content-encoding": "aws-chunked",
    }
    put = lambda sum, **more: http(f"{url}/{BUCKET}/c", "PUT", body % sum, headers | more)
    assert put(b"AAAAAA==")[0] == 400
    refused(lambda: s3.head_object(Bucket=BUCKET, Key="c"), "404")
    status, said, _ = put(crc.encode())
    assert status == 200, said
    assert read(s3, "c") == b"hello"
    assert put(crc.encode(), **{"x-amz-decoded-content-length": "6"})[0] == 400
    assert read(s3, "c") == b"hello"


def secure(url, certificate, secret):
    """HTTPS: boto3 sends bodies in pieces, with their checksums behind them."""
    s3 = client(url, secret, verify=certificate)
    for size in [0, 5, 100_000, 9 << 20]:
        data = bytes(n % 251 for n in range(1000)) * (size // 1000 + 1)
        s3.upload_fileobj(io.BytesIO(data[:size]), BUCKET, f"s{size}")
        assert read(s3, f"s{size}") == data[:size]
    wrong = client(url, "wrong", verify=certificate)
    refused(lambda: wrong.put_object(Bucket=BUCKET, Key="x", Body=b"1"), "SignatureDoesNotMatch")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
