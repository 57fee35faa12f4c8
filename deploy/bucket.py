"""The bucket of an `s3://` URL: created if absent, closed to the public, with two lifecycle rules.

Incomplete multipart uploads are removed after a day: they cost money, and no listing shows them. Raw events move to
Glacier Instant Retrieval after 90 days, which costs a sixth and can still be read: `pingfeed forget` has to rewrite
those files too. The rule names a minimum size, as S3 does not move objects under 128 KB; the nightly job compacts small
files. Other rules of the bucket are kept. No rule expires events: the nightly job does that, on any lake.
"""

from collections.abc import Callable
from typing import Any, Final

from deploy.clients import client, code_of, unless
from pingfeed.aws import Location, s3_endpoint, translated

GLACIER_DAYS: Final = 90
SMALLEST_MOVED_BYTES: Final = 128 << 10
_DEFAULT_REGION: Final = "us-east-1"
_PRIVATE: Final = dict.fromkeys(
    ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
)
_UNSUPPORTED: Final = frozenset({"NotImplemented", "MethodNotAllowed", "InvalidAction", "UnknownOperationException"})
"""The error codes of emulators for an operation that they do not have."""


def ensure(url: str) -> list[str]:
    """Create what is missing of the bucket, its privacy and its rules; returns a sentence for each change.

    Raises InvalidInput for a URL without a bucket, SettingsError without credentials, and Unavailable if S3 does not
    respond or denies access.
    """
    place = Location.of(url)
    with translated(f"the bucket {place.bucket}"):
        s3 = client("s3")
        return [
            *_create_bucket(s3, place.bucket),
            *_if_supported(lambda: _block_public_access(s3, place.bucket), place.bucket, "public access blocks"),
            *_if_supported(lambda: _add_rules(s3, place), place.bucket, "lifecycle rules"),
        ]


def flaws(url: str) -> list[str]:
    """How the bucket differs from what `ensure` makes. Changes nothing; raises as that."""
    bucket = Location.of(url).bucket
    with translated(f"the bucket {bucket}"):
        return [] if _is_private(client("s3"), bucket) else ["does not block public access"]


def _rules(place: Location) -> list[dict[str, Any]]:
    """The lifecycle rules of a location. Their ids contain its prefix, as a bucket may hold several locations."""
    return [
        {
            "ID": "pingfeed: remove incomplete uploads",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
        },
        {
            "ID": f"pingfeed: raw events of {place.prefix or 'all'} to Glacier Instant Retrieval",
            "Status": "Enabled",
            "Filter": {
                "And": {"Prefix": place.below("events"), "ObjectSizeGreaterThan": SMALLEST_MOVED_BYTES - 1},
            },
            "Transitions": [{"Days": GLACIER_DAYS, "StorageClass": "GLACIER_IR"}],
        },
    ]


def _create_bucket(s3: Any, bucket: str) -> list[str]:
    with unless("404"):
        s3.head_bucket(Bucket=bucket)
        return []
    region = s3.meta.region_name
    # S3 rejects its default region as a location constraint.
    where = {} if region in (None, _DEFAULT_REGION) else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    s3.create_bucket(Bucket=bucket, **where)
    return [f"created the bucket {bucket}"]


def _block_public_access(s3: Any, bucket: str) -> list[str]:
    if _is_private(s3, bucket):
        return []
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=_PRIVATE)
    return [f"blocked public access to {bucket}"]


def _is_private(s3: Any, bucket: str) -> bool:
    with unless("NoSuchPublicAccessBlockConfiguration"):
        return bool(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"] == _PRIVATE)
    return False


def _add_rules(s3: Any, place: Location) -> list[str]:
    rules: dict[str, Any] = {}
    with unless("NoSuchLifecycleConfiguration"):
        found = s3.get_bucket_lifecycle_configuration(Bucket=place.bucket)
        rules = {rule.get("ID"): rule for rule in found["Rules"]}
    # Only ids are compared: an emulator may return a rule in another form than it was given.
    missing = {rule["ID"]: rule for rule in _rules(place) if rule["ID"] not in rules}
    if missing:
        configuration = {"Rules": [*rules.values(), *missing.values()]}
        s3.put_bucket_lifecycle_configuration(Bucket=place.bucket, LifecycleConfiguration=configuration)
    return [f"added the rule {name!r} to {place.bucket}" for name in missing]


def _if_supported(change: Callable[[], list[str]], bucket: str, what: str) -> list[str]:
    """What was changed, or a sentence that this emulator of S3 does not support it."""
    from botocore.exceptions import ClientError

    try:
        return change()
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if s3_endpoint() is None or (status != 501 and code_of(error) not in _UNSUPPORTED):
            raise
        return [f"{bucket} has no {what}: the S3 at AWS_ENDPOINT_URL does not support them"]
