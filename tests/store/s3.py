"""A fake S3 that handles one request at a time, so that conditional puts are exclusive.

`python -m tests.store.s3 HOST PORT` serves there until its standard input closes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from unittest import mock

BUCKET = "s3://laboratory"


ACCOUNT = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def serving(host: str = "127.0.0.1", port: int = 0) -> Iterator[None]:
    """Set the environment of this process and its children to use it, with the empty bucket BUCKET."""
    import boto3
    import s3fs
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server(host, port, DomainDispatcherApplication(create_backend_app), threaded=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://{host}:{server.server_port}"
    try:
        with mock.patch.dict(os.environ, {**ACCOUNT, "AWS_ENDPOINT_URL": address, "MLFLOW_S3_ENDPOINT_URL": address}):
            s3fs.S3FileSystem.clear_instance_cache()  # of an earlier server
            boto3.client("s3").create_bucket(Bucket=BUCKET.removeprefix("s3://"))
            yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


if __name__ == "__main__":
    with serving(sys.argv[1], int(sys.argv[2])):
        print("ready", flush=True)
        sys.stdin.read()
