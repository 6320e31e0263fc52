"""moto's S3, whose objects can be made older: `python -m tests.checkpoint.s3 PORT`.

A GET of /make-older/<bucket>?seconds=<n> moves the times of all objects of a bucket back.
"""

import sys
import urllib.request
from datetime import timedelta
from urllib.parse import parse_qs

from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

MAKE_OLDER = "/make-older/"


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if not path.startswith(MAKE_OLDER):
        return moto(environ, start_response)
    by = timedelta(seconds=float(parse_qs(environ["QUERY_STRING"])["seconds"][0]))
    for backends in s3_backends.values():
        bucket = backends["aws"].buckets.get(path.removeprefix(MAKE_OLDER))
        for key in bucket.keys.values() if bucket is not None else ():
            key.last_modified -= by
    start_response("200 OK", [])
    return [b""]


def make_s3_older(port: int, bucket: str, seconds: float) -> None:
    """Ask a server for it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{MAKE_OLDER}{bucket}?seconds={seconds}", timeout=30):
        pass


if __name__ == "__main__":
    moto = DomainDispatcherApplication(create_backend_app)
    run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=True)
