"""A bucket of a test's own on the session's MiniStack, and its objects as a lake of this machine."""

from typing import Any

import boto3

from pingfeed.adapters.lake_file import FileLake
from tests.conformance.place import Place


def bucket_of(place: Place) -> str:
    """`s3://bucket/lake`; the bucket is made."""
    boto3.client("s3").create_bucket(Bucket=place.aws)
    return f"s3://{place.aws}/lake"


def mirrored(place: Place) -> FileLake:
    """Everything that is in the bucket's lake by now, copied into the place's folder."""
    return mirror(place.aws, FileLake(f"file://{place.folder}/mirror"))


def mirror(bucket: str, lake: FileLake) -> FileLake:
    """Copy the objects below `lake/` that are not in the lake yet; objects never change."""
    client = boto3.client("s3")
    there = {f"lake/{path}" for path in lake.list("")}
    for key in _keys(client, bucket):
        if key not in there:
            lake.write(key.removeprefix("lake/"), client.get_object(Bucket=bucket, Key=key)["Body"].read())
    return lake


def _keys(client: Any, bucket: str) -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="lake/")
    return [found["Key"] for page in pages for found in page.get("Contents", [])]
