"""A real HTTP server that answers chat completions as a test says, on a free port, in threads of this process."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(text="fine", reason="stop", tokens=3, **more):
    """The body of an ordinary answer."""
    usage = {} if tokens is None else {"usage": {"prompt_tokens": 9, "completion_tokens": tokens}}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return {"object": "chat.completion", "choices": [choice], **usage, **more}


def echo(body):
    """An answer that tells what was asked."""
    return completion(f"{body['messages'][-1]['content']} {body['seed']} {body['temperature']}")


class ChatServer:
    """Answers with what `answer(body)` returns: an object, bytes, or (status, headers, either of these).

    asked: a row for each request, in the order of their arrival: when, path, headers, body. most: the most that were
    under way at once.
    """

    def __init__(self, answer=echo):
        self.answer, self.asked, self.most, self._now = answer, [], 0, 0
        self.over = threading.Event()  # what hangs ends with the test
        self._lock = threading.Lock()
        chat = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version, disable_nagle_algorithm = "HTTP/1.1", True
            timeout = 20

            def do_POST(self):
                chat.take(self)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size, daemon_threads = 128, True

            def handle_error(self, *_):
                pass  # a client that left is what is tested

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    @property
    def bodies(self):
        return [body for _, _, _, body in self.asked]

    def close(self):
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    def take(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.asked.append((time.monotonic(), handler.path, dict(handler.headers), body))
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            said = self.answer(body)
        finally:
            with self._lock:
                self._now -= 1
        status, headers, content = said if isinstance(said, tuple) else (200, {}, said)
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        handler.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)
        handler.close_connection = len(content) != int(headers.get("Content-Length", len(content)))
