"""S3 server on this machine for tests. Objects go in by boto3, as by any other program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

BUCKET = "films"


@contextmanager
def s3_server() -> Iterator[ThreadedMotoServer]:
    """A server with one empty bucket; AWS's environment variables lead to it, and nowhere else, until it stops."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with aws_environment(f"http://{host}:{port}"):
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield server
        server.stop()


@contextmanager
def aws_environment(endpoint: str) -> Iterator[None]:
    """Environment that leads AWS's libraries to an endpoint of this machine."""
    values = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_MAX_ATTEMPTS": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    S3FileSystem.clear_instance_cache()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield
    S3FileSystem.clear_instance_cache()


def upload(folder: Path, prefix: str) -> str:
    """Put every file of the folder into the bucket; the root that they then have."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())
    return f"s3://{BUCKET}/{prefix}"


def put(key: str, content: bytes) -> str:
    """Write one object; its address."""
    boto3.client("s3").put_object(Bucket=BUCKET, Key=key, Body=content)
    return f"s3://{BUCKET}/{key}"
