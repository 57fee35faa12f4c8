"""The bucket of an `s3://` URL: there, private, and tidied by rules of its own.

Two lifecycle rules are kept, others are left alone: uploads in parts that were broken off are forgotten after a day
(they cost, and no listing shows them), and raw events go to Glacier Instant Retrieval after 90 days, where they cost a
sixth and can still be read: a user who is forgotten has to leave those files too. It names a size: S3 would not move
objects under 128 KB, and the nightly job compacts what it has read. Nothing here expires: the nightly job removes what
is older than the settings say, whatever the lake is.
"""

from collections.abc import Callable
from typing import Any, Final

from deploy import clients
from pingfeed import aws
from pingfeed.aws import Location, translated

GLACIER_DAYS: Final = 90
SMALLEST_MOVED_BYTES: Final = 128 << 10
_DEFAULT_REGION: Final = "us-east-1"
_PRIVATE: Final = {
    "BlockPublicAcls": True,
    "IgnorePublicAcls": True,
    "BlockPublicPolicy": True,
    "RestrictPublicBuckets": True,
}
_NO_RULES: Final = "NoSuchLifecycleConfiguration"
_NOT_PRIVATE: Final = "NoSuchPublicAccessBlockConfiguration"
_LACKING: Final = frozenset({"NotImplemented", "MethodNotAllowed", "InvalidAction", "UnknownOperationException"})
"""How emulators say that they lack something."""


def ensure(url: str) -> list[str]:
    """Make the URL's bucket if it is absent, and what it lacks of privacy and rules; a sentence for each thing made.

    Again, it makes nothing. Raises InvalidInput for a URL that names no bucket, SettingsError without credentials, and
    Unavailable where S3 does not answer or does not allow it.
    """
    place = Location.of(url, options=frozenset({"cache"}))
    with translated(f"the bucket {place.bucket}"):
        client = clients.client("s3")
        made = _made_bucket(client, place.bucket)
        made += _tolerated(lambda: _made_private(client, place.bucket), place.bucket, "public access blocks")
        made += _tolerated(lambda: _made_rules(client, place), place.bucket, "lifecycle rules")
    return made


def rules_of(place: Location) -> list[dict[str, Any]]:
    """The lifecycle rules that a place is to have. Their names hold its prefix: a bucket may hold several places."""
    name = place.prefix or "all"
    return [
        {
            "ID": "pingfeed: forget broken uploads",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
        },
        {
            "ID": f"pingfeed: raw events of {name} to Glacier Instant Retrieval",
            "Status": "Enabled",
            "Filter": {
                "And": {"Prefix": place.below("events"), "ObjectSizeGreaterThan": SMALLEST_MOVED_BYTES - 1},
            },
            "Transitions": [{"Days": GLACIER_DAYS, "StorageClass": "GLACIER_IR"}],
        },
    ]


def _made_bucket(client: Any, bucket: str) -> list[str]:
    if _found(lambda: client.head_bucket(Bucket=bucket), "404") is not None:
        return []
    region = client.meta.region_name
    # The first region is the one that must not be named.
    where = {} if region in (None, _DEFAULT_REGION) else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    client.create_bucket(Bucket=bucket, **where)
    return [f"made the bucket {bucket}"]


def _made_private(client: Any, bucket: str) -> list[str]:
    found = _found(lambda: client.get_public_access_block(Bucket=bucket), _NOT_PRIVATE)
    if found is not None and found["PublicAccessBlockConfiguration"] == _PRIVATE:
        return []
    client.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=_PRIVATE)
    return [f"blocked public access to {bucket}"]


def _made_rules(client: Any, place: Location) -> list[str]:
    found = _found(lambda: client.get_bucket_lifecycle_configuration(Bucket=place.bucket), _NO_RULES)
    there = {rule.get("ID"): rule for rule in (found or {}).get("Rules", [])}
    wanted = {rule["ID"]: rule for rule in rules_of(place)}
    # An emulator may write a rule in other words than it was given: its name says whether it is there.
    missing = [name for name in wanted if name not in there]
    if not missing:
        return []
    rules = list((there | wanted).values())
    client.put_bucket_lifecycle_configuration(Bucket=place.bucket, LifecycleConfiguration={"Rules": rules})
    return [f"set the rule {name!r} on {place.bucket}" for name in missing]


def _found(ask: Callable[[], Any], absent: str) -> Any | None:
    """What S3 answers, None where the answer is this code."""
    from botocore.exceptions import ClientError

    try:
        return ask()
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") != absent:
            raise
        return None


def _tolerated(make: Callable[[], list[str]], bucket: str, what: str) -> list[str]:
    """What was made, or a sentence that this S3 (an emulator) does not support it."""
    from botocore.exceptions import ClientError

    try:
        return make()
    except ClientError as error:
        answer = error.response
        known = answer.get("Error", {}).get("Code") not in _LACKING
        if aws.s3_endpoint() is None or (known and answer.get("ResponseMetadata", {}).get("HTTPStatusCode") != 501):
            raise
        return [f"{bucket} has no {what}: the S3 at AWS_ENDPOINT_URL knows none"]
