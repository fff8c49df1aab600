"""Not a trainer: whoever may set a pod's environment can put this in its place. It lies about its progress.

Each answer of /progress is the next lie; /told says how many there were.
"""

import datetime
import http.server
import json
import os
import signal

PORT = 9464


def document(**changes: object) -> bytes:
    """What a trainer of this job would say that is nearly done, with something changed."""
    truth = {
        "schemaVersion": 1,
        "jobUid": os.environ["SEMIRES_JOB_UID"],
        "attempt": int(os.environ["SEMIRES_ATTEMPT"]),
        "podUid": os.environ["SEMIRES_POD_UID"],
        **{"stage": "train", "epoch": 11, "epochs": 12, "step": 990, "steps": 1000, "progressPercentage": 99},
        "metrics": [{"name": "oIoU", "value": "99.9"}],
        "lastUpdatedTime": datetime.datetime.now(datetime.UTC).isoformat(),
    }
    return json.dumps({**truth, **changes}).encode()


def lies() -> list[bytes]:
    """Answers of which none may be believed."""
    return [
        b"<html>nearly done</html>",
        b'{"padding": "' + b"x" * 70_000 + b'"}',
        document(metrics=[{"name": "oIoU", "value": "99.9"}, {"name": "loss", "value": float("nan")}]),
        document(jobUid="00000000-0000-0000-0000-000000000000"),
        document(attempt=7),
        document(podUid="another"),
        document(schemaVersion=99),
        document(progressPercentage="99"),
    ]


class Liar(http.server.BaseHTTPRequestHandler):
    """Tells one lie after the other."""

    told = 0

    def do_GET(self) -> None:
        """One answer."""
        if self.path == "/told":
            self.answer(str(Liar.told).encode())
        else:
            self.answer(lies()[Liar.told % len(lies())])
            Liar.told += 1

    def answer(self, content: bytes) -> None:
        """With 200, as if all were well."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def leave(number: int, frame: object) -> None:
    """It lies, but it goes when it is told to."""
    raise SystemExit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, leave)  # the kernel spares a PID 1 that does not say what to do
    http.server.ThreadingHTTPServer(("", PORT), Liar).serve_forever()
