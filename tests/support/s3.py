"""An S3 server that tests talk to over HTTP, and its buckets."""

from __future__ import annotations

import contextlib
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.support.common import start

#: A file that does not exist: nobody's profile gets into the tests.
_NOTHING = str(Path(__file__).with_name("no-aws-configuration"))

#: What makes botocore look nowhere but at the server: dummy credentials, no metadata.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": _NOTHING,
    "AWS_SHARED_CREDENTIALS_FILE": _NOTHING,
}


class Server:
    """A server process; requests of its own go past what is tested."""

    def __init__(self, **env: str) -> None:
        command = (sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0")
        self._process = start(
            *command, pattern=r"Running on (http://\S+)", env={**ENVIRONMENT, **env}
        )
        self.endpoint = self._process.address

    def client(self, service: str = "s3", **arguments: Any) -> Any:
        import boto3

        return boto3.client(service, endpoint_url=self.endpoint, **arguments)

    def bucket(self) -> str:
        """Make a bucket and return its name."""
        name = f"test-{uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of a connector that has a bucket of its own."""
        return {"url": f"s3://{self.bucket()}/prefix", "endpoint_url": self.endpoint}

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Return what is in a bucket."""
        pages = self.client().get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=bucket, Prefix=prefix)
        return [each["Key"] for page in found for each in page.get("Contents", [])]

    def uploads(self, bucket: str) -> list[str]:
        """Return the uploads that nobody has ended."""
        answer = self.client().list_multipart_uploads(Bucket=bucket)
        return [each["Key"] for each in answer.get("Uploads", [])]

    def post(self, path: str, data: bytes) -> None:
        request = urllib.request.Request(self.endpoint + path, data, method="POST")
        with urllib.request.urlopen(request, timeout=10):
            pass

    def stop(self) -> None:
        self._process.kill()
        self._process.stop()


@contextlib.contextmanager
def server(**env: str) -> Iterator[Server]:
    """Run a server; *env* is for its process."""
    running = Server(**env)
    try:
        yield running
    finally:
        running.stop()
