"""What schemathesis is to know of this API: streams without an end, WebSockets, and archives."""

import io
import json
import os
import socket
import tarfile
import time

import requests.adapters
import schemathesis
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator

LINES = "application/x-ndjson"
# A stream is listened to for so long, in seconds, and for so many bytes.
LISTEN = 0.4
ENOUGH = 64 * 1024
UPGRADES = ("/attach", "/exec", "/connect")
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}

_send = requests.adapters.HTTPAdapter.send


def send(self, request, **options):
    """Sends a request. The head of the answer must come in time, as of any request; of a stream only its beginning is read."""
    path = request.path_url.split("?")[0]
    if request.method == "GET" and path.endswith(UPGRADES):
        request.headers.update(UPGRADE)
    response = _send(self, request, **{**options, "stream": True})
    if response.status_code == 101:
        response._content = b""
        response.raw.close()
    elif response.headers.get("content-type", "").startswith(LINES):
        response._content = beginning(response)
        response.raw.close()
    return response


def beginning(response):
    """The whole lines that come within LISTEN seconds."""
    read = b""
    connection = response.raw.connection
    end = time.monotonic() + LISTEN
    while len(read) < ENOUGH and (left := end - time.monotonic()) > 0:
        if connection is not None and connection.sock is not None:
            connection.sock.settimeout(left)
        try:
            part = response.raw.read1(ENOUGH)
        except (socket.timeout, OSError, requests.exceptions.RequestException):
            break
        except Exception as error:  # urllib3's own word for a timeout
            if "timed out" in str(error):
                break
            raise
        if not part:
            break
        read += part
    return read[: read.rfind(b"\n") + 1]


requests.adapters.HTTPAdapter.send = send


with open(os.environ["HIVEMIND_OPENAPI"], encoding="utf-8") as file:
    DOCUMENT = json.load(file)


@schemathesis.check
def lines_conformance(context, response, case):
    """Each line of a stream is what the description says of one."""
    if not any(value.startswith(LINES) for value in response.headers.get("content-type", [])):
        return None
    described = DOCUMENT["paths"][case.operation.path][case.operation.method.lower()]["responses"]
    schema = described[str(response.status_code)]["content"][LINES]["schema"]
    validator = Draft202012Validator({**schema, "components": DOCUMENT["components"]})
    for line in response.content.splitlines():
        value = json.loads(line)
        if (error := next(validator.iter_errors(value), None)) is not None:
            raise AssertionError(f"a line is not as described: {error.message}\n{line.decode()}")
    return None


def archive(names):
    """A tar archive of files and links of these names."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for at, name in enumerate(names):
            member = tarfile.TarInfo(name)
            if at % 3 == 2:
                member.type, member.linkname = tarfile.SYMTYPE, names[0]
                tar.addfile(member)
            else:
                content = name.encode(errors="replace")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


NAMES = st.sampled_from(["a", "a/b", "../a", "/etc/passwd", "index.json", "oci-layout", "manifest.json", "c" * 300])
ARCHIVES = st.lists(NAMES, max_size=6).map(archive)
CUT = st.tuples(ARCHIVES, st.integers(0, 4096)).map(lambda both: both[0][: both[1]])
schemathesis.openapi.media_type("application/x-tar", st.one_of(ARCHIVES, CUT, st.binary(max_size=2048)))
