"""Somebody else at the same bucket, with boto3.

    bucket.py put BUCKET KEY FILE      uploads, as boto3's `upload_file` does
    bucket.py get BUCKET KEY FILE      downloads
"""

import sys

import boto3

client = boto3.client("s3", region_name="us-east-1")
verb, bucket, key, file = sys.argv[1:]
match verb:
    case "put":
        client.upload_file(file, bucket, key)
    case "get":
        client.download_file(bucket, key, file)
