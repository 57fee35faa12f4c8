"""What a deployment uploads: zips and template to a bucket of deployments, and the tick's image to ECR.

Everything is named after its content, so that nothing is uploaded under a name that means something else. Stages of one
account and region share the bucket and the repository.
"""

import base64
import hashlib
import re
import subprocess
from collections.abc import Callable, Mapping
from typing import Any, Final

from deploy import bucket, clients, package
from deploy.rollout import ReleaseError

REPOSITORY: Final = "pingfeed-lambda-batch"
TEMPLATE: Final = package.ROOT / "deploy" / "template.yaml"
_LOCAL_ZIP: Final = re.compile(r"CodeUri: \.\./build/(\w+)\.zip")
PLATFORMS: Final = {"arm64": "linux/arm64", "x86_64": "linux/amd64"}
"""Architecture -> Docker's name for it."""


class Uploads:
    """The uploads of one account and region."""

    def __init__(self, account: str, region: str, client: Callable[..., Any], say: Callable[[str], object]) -> None:
        self._client, self._say, self._s3 = client, say, client("s3")
        self.bucket = f"pingfeed-deploy-{account}-{region}"

    def put(self, data: bytes, suffix: str) -> str:
        """Put data into the bucket of deployments under the name of its digest; its s3:// URL."""
        for sentence in bucket.ensure(f"s3://{self.bucket}/deploy"):
            self._say(sentence)
        key = f"deploy/{hashlib.sha256(data).hexdigest()[:32]}{suffix}"
        self._s3.put_object(Bucket=self.bucket, Key=key, Body=data)
        return f"s3://{self.bucket}/{key}"

    def template(self, zips: Mapping[str, str]) -> str:
        """The address of the template, in which the uploaded zips stand for the local ones.

        CloudFormation rejects a local one also of a function that the parameters leave out.
        """
        none = f"s3://{self.bucket}/deploy/none.zip"
        text = _LOCAL_ZIP.sub(lambda found: f"CodeUri: {zips.get(found[1], none)}", TEMPLATE.read_text())
        key = self.put(text.encode(), ".yaml").partition(self.bucket + "/")[2]
        signed: str = self._s3.generate_presigned_url("get_object", Params={"Bucket": self.bucket, "Key": key})
        return signed.partition("?")[0]  # CloudFormation reads it with the caller's own permissions.

    def image(self, architecture: str) -> str:
        """Build the tick's image and push it, unless it is there; its URI by digest."""
        ecr = self._client("ecr")
        with clients.unless("RepositoryAlreadyExistsException"):
            ecr.create_repository(repositoryName=REPOSITORY)
        uri = ecr.describe_repositories(repositoryNames=[REPOSITORY])["repositories"][0]["repositoryUri"]
        self._say("building the tick's image ...")
        words = ["--quiet", "--provenance=false", "--platform", PLATFORMS[architecture], "--target", "lambda-batch"]
        tag = _docker("build", *words, str(package.ROOT)).removeprefix("sha256:")[:32]
        with clients.unless("ImageNotFoundException"):
            return f"{uri}@{_digest(ecr, tag)}"
        access = ecr.get_authorization_token()["authorizationData"][0]
        user, _, password = base64.b64decode(access["authorizationToken"]).decode().partition(":")
        _docker("login", "--username", user, "--password-stdin", access["proxyEndpoint"], stdin=password)
        _docker("tag", tag, f"{uri}:{tag}")
        self._say("pushing it ...")
        _docker("push", "--quiet", f"{uri}:{tag}")
        return f"{uri}@{_digest(ecr, tag)}"


def _digest(ecr: Any, tag: str) -> str:
    found = ecr.describe_images(repositoryName=REPOSITORY, imageIds=[{"imageTag": tag}])
    return str(found["imageDetails"][0]["imageDigest"])


def _docker(*words: str, stdin: str = "") -> str:
    try:
        done = subprocess.run(["docker", *words], input=stdin, capture_output=True, text=True, check=False)  # noqa: S603, S607
    except FileNotFoundError as error:
        raise ReleaseError("The tick's image needs Docker, which is not installed.") from error
    if done.returncode:
        raise ReleaseError(f"docker {words[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()
