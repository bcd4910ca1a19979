"""HTTP requests signed with AWS Signature Version 4, and nothing of AWS's libraries: what is sent is what is written here."""

import datetime
import hashlib
import hmac
import http.client
import re
import urllib.parse

REGION = "us-east-1"
ACCESS, SECRET = "peer-access-key", "peer-secret-key-0123456789"
NO_BODY = hashlib.sha256(b"").hexdigest()


class Answer:
    """Status, headers (names in lower case), body."""

    def __init__(self, response):
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def code(self):
        """S3's code of an error, else nothing."""
        found = re.search(rb"<Code>([^<]*)</Code>", self.body)
        return found[1].decode() if found else ""

    @property
    def told(self):
        return self.status, self.code

    def __getitem__(self, header):
        return self.headers.get(header, "")

    def __repr__(self):
        return f"{self.status} {self.headers} {self.body[:500]}"


def _hmac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


class Request:
    """A request; `headers` is a list, so that a name may occur twice."""

    def __init__(self, address, method, path, headers=(), query="", body=b""):
        self.address, self.method, self.path, self.query, self.body = address, method, path, query, body
        self.headers = list(headers)

    def sign(self, access=ACCESS, secret=SECRET, leave_out=()):
        """Signs all headers but those named."""
        moment = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        content = "UNSIGNED-PAYLOAD" if self.body else NO_BODY
        self.headers += [("x-amz-date", moment), ("x-amz-content-sha256", content)]
        signed = {"host": self.address}
        for name, value in self.headers:
            if name not in leave_out:
                signed[name] = f"{signed[name]},{value}" if name in signed else value
        names, signature, scope = self._signature(signed, content, moment, self.query, secret)
        self.headers.append(("authorization", f"AWS4-HMAC-SHA256 Credential={access}/{scope}, SignedHeaders={names}, Signature={signature}"))
        return self

    def presign(self):
        """Signs in the query, the headers that are there included."""
        moment = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        signed = {"host": self.address, **dict(self.headers)}
        query = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Credential": f"{ACCESS}/{moment[:8]}/{REGION}/s3/aws4_request",
            "X-Amz-Date": moment, "X-Amz-Expires": "60", "X-Amz-SignedHeaders": ";".join(sorted(signed)),
        }
        self.query = urllib.parse.urlencode(sorted(query.items()), quote_via=urllib.parse.quote)
        _, signature, _ = self._signature(signed, "UNSIGNED-PAYLOAD", moment, self.query, SECRET)
        self.query += f"&X-Amz-Signature={signature}"
        return self

    def _signature(self, signed, content, moment, query, secret):
        names = ";".join(sorted(signed))
        canonical = "\n".join([
            self.method, urllib.parse.quote(self.path), "&".join(sorted(filter(None, query.split("&")))),
            *(f"{name}:{' '.join(signed[name].split())}" for name in sorted(signed)), "", names, content])
        scope = f"{moment[:8]}/{REGION}/s3/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = ("AWS4" + secret).encode()
        for part in scope.split("/"):
            key = _hmac(key, part)
        return names, hmac.new(key, text.encode(), hashlib.sha256).hexdigest(), scope

    def begin(self, timeout=120):
        """Sends it on a connection of its own; the answer is not read."""
        connection = http.client.HTTPConnection(self.address, timeout=timeout)
        target = urllib.parse.quote(self.path) + (f"?{self.query}" if self.query else "")
        connection.putrequest(self.method, target, skip_accept_encoding=True)
        for name, value in self.headers:
            connection.putheader(name, value)
        if self.method != "GET" or self.body:
            connection.putheader("content-length", str(len(self.body)))
        connection.endheaders(self.body or None)
        return connection

    def send(self):
        connection = self.begin()
        try:
            return Answer(connection.getresponse())
        finally:
            connection.close()
