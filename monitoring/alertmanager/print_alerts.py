"""Print what Alertmanager sends to a webhook, one line per alert: the receiver of the demonstration and of first tries.

python print_alerts.py 0.0.0.0:8080
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

LARGEST = 1 << 20


class Printer(BaseHTTPRequestHandler):
    timeout = 10

    def do_POST(self):
        try:
            size = int(self.headers.get("Content-Length", ""))
            if not 0 < size <= LARGEST:
                raise ValueError("the body has %d bytes, of at most %d" % (size, LARGEST))
            for alert in json.loads(self.rfile.read(size).decode())["alerts"]:
                about = alert["annotations"]
                said = (alert["status"].upper(), alert["labels"].get("severity"), about.get("summary"))
                print("%s %s: %s (%s)" % (said + (about.get("runbook_url"),)), flush=True)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            self.send_error(400, "not what Alertmanager sends", str(exc))
            return
        self.send_response(204)
        self.end_headers()

    def log_message(self, format, *args):
        """Say nothing: the alerts are what is read here."""


def main(address):
    host, _, port = address.rpartition(":")
    server = HTTPServer((host, int(port)), Printer)
    print("waiting for alerts on %s:%d" % server.server_address[:2], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        pass
