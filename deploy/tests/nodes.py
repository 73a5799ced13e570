"""A stand-in for the part of Kubernetes' API that labels nodes: it takes patches, by TLS, from whoever
shows the token."""

import http.server
import json
import pathlib
import ssl
import subprocess
import threading


class Nodes:
    def __init__(self, place):
        place = pathlib.Path(place)
        key, certificate = place / "api.key", place / "api.crt"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
            + ["-days", "2", "-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:127.0.0.1"]
            + ["-keyout", key, "-out", certificate],
            check=True, capture_output=True, timeout=60,
        )
        self.token, self.certificate, self.labels = "a token of a test", certificate.read_text(), {}
        nodes = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_PATCH(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                allowed = self.headers["Authorization"] == f"Bearer {nodes.token}"
                allowed &= self.headers["Content-Type"] == "application/merge-patch+json"
                if allowed:
                    name = self.path.removeprefix("/api/v1/nodes/")
                    nodes.labels.setdefault(name, {}).update(body["metadata"]["labels"])
                self.send_response(200 if allowed else 403)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
