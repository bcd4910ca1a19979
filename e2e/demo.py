"""Reads one object with boto3 and prints its SHA-256: what an ordinary S3 client sees.

Endpoint, key pair and CA come from the environment, as every AWS tool takes them.
"""

import hashlib
import sys

import boto3

bucket, key = sys.argv[1:]
body = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"]
digest = hashlib.sha256()
for chunk in body.iter_chunks(1 << 20):
    digest.update(chunk)
print(digest.hexdigest())
