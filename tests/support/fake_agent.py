"""A stand-in for `inferometer run` in tests of the demo: counts records, seals days, answers pages, tells of what
the demo breaks (which it recognises by simple rules of its own).

`python tests/support/fake_agent.py MODE -c CONFIG`. MODE: `right` counts everything, `forgetful` misses
one row in a thousand, `crash` ends with a message as soon as it has been asked for its state.
"""

import json
import os
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import yaml
from confluent_kafka import Consumer

from agent.demo.flights import CATEGORICAL, DAY_MS, FEATURES
from agent.respond.signing import read_keys, signature
from tests.support.demo_states import event, numeric_column, text_column

MODE, CONFIG = sys.argv[1], sys.argv[3]
KEEP = 12


class Counts:
    """Rows by (origin, day); a day is sealed when a row of two days later has come."""

    def __init__(self):
        self.lock = threading.Lock()
        self.open = defaultdict(list)
        self.sealed = defaultdict(dict)
        self.seen = self.rows = self.labels = 0
        self.newest = 0
        self.distances, self.told = {}, set()

    def take(self, topic, body):
        if topic.endswith("labels"):
            self.labels += 1
            return
        self.seen += 1
        self.rows += MODE != "forgetful" or self.seen % 1000 != 0
        day = body["ts"] // DAY_MS
        self.open[body["version"], body["segment"]["origin"], day].append(body)
        if day > self.newest:
            self.newest = day
            for key in [k for k in self.open if k[2] < day - 1]:
                self.seal(*key)

    def seal(self, version, origin, day):
        events = self.open.pop((version, origin, day))
        windows = self.sealed[version, origin]
        windows[day] = window(day, events)
        self.judge(version, origin, day, events)
        for old in sorted(windows)[:-KEEP]:
            del windows[old]

    def judge(self, version, origin, day, events):
        """Null weather, doubled miles, a second version: what the demo does to its data."""
        distance = np.mean([e["features"]["distance"] for e in events])
        usual = self.distances.setdefault(origin, distance)
        if version == "2":
            self.tell("canary", day, version, actions=("on-call", "rollback"))
        elif all(e["features"]["temp"] is None for e in events):
            self.tell("contract", day, source="weather", features=["temp", "dewp"], origin=origin)
        elif distance > 1.4 * usual:
            self.tell("distance", day, source="distance", features=["distance"])

    def tell(self, monitor, day, version="1", *, actions=("on-call",), **more):
        if monitor not in self.told:
            self.told.add(monitor)
            document = event(monitor, day, version=version, **more)
            for action in actions:
                post(action, document)

    def state(self):
        streams = [
            {
                "model": "flight-delay",
                "version": version,
                "segment": {"origin": origin},
                "rows": sum(w["rows"] for w in windows.values()),
                "errors": 0,
                "totals": {"features": {}, "predictions": {}, "latency": None, "usage": {}},
                "windows": [windows[day] for day in sorted(windows)],
            }
            for (version, origin), windows in self.sealed.items()
        ]
        tally = {"rows": self.rows, "labels": self.labels, "dropped": {}}
        return {"ready": True, "streams": streams, "tally": tally, "lag": {"records": 0}}


def window(day, events):
    features = {}
    for name in FEATURES:
        values = [event["features"][name] for event in events]
        features[name] = (
            text_column(values)
            if name in CATEGORICAL
            else numeric_column(np.array([np.nan if v is None else v for v in values], float))
        )
    labels = [event["prediction"]["label"] for event in events]
    scores = np.array([event["prediction"]["score"] for event in events])
    latencies = np.array([event["latency_ms"] / 1e3 for event in events])
    return {
        "start_ms": day * DAY_MS,
        "end_ms": (day + 1) * DAY_MS,
        "rows": len(events),
        "errors": 0,
        "features": features,
        "predictions": {"label": text_column(labels), "score": numeric_column(scores)},
        "latency": numeric_column(latencies),
    }


def post(action, document):
    """Send a document to an action's webhook, signed with its secret."""
    actions = {a["name"]: a["webhook"] for a in SETTINGS["respond"]["actions"]}
    hook, body, now = actions[action], json.dumps(document).encode(), int(time.time())
    keys = read_keys(hook["secret_file"], "secret_file")
    headers = {
        "webhook-id": document["id"],
        "webhook-timestamp": str(now),
        "webhook-signature": signature(document["id"], now, body, keys),
    }
    request = urllib.request.Request(hook["url"], body, headers)
    urllib.request.urlopen(request, timeout=10).close()


SETTINGS = yaml.safe_load(Path(CONFIG).read_text())
COUNTS = Counts()


class Pages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/v1/state" and MODE == "crash":
            print("cannot go on: the disk is full", file=sys.stderr, flush=True)
            os._exit(3)
        with COUNTS.lock:
            body = json.dumps(COUNTS.state() if self.path == "/v1/state" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def main():
    kafka = SETTINGS["kafka"]
    consumer = Consumer(
        {
            "bootstrap.servers": ",".join(kafka["bootstrap_servers"]),
            "group.id": kafka["group_id"],
            "auto.offset.reset": kafka["auto_offset_reset"],
        }
    )
    consumer.subscribe([*kafka["topics"], *kafka["label_topics"]])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"INFO pages on http://127.0.0.1:{server.server_port}", file=sys.stderr, flush=True)
    while True:
        records = consumer.consume(1000, 0.1)
        with COUNTS.lock:
            for record in records:
                COUNTS.take(record.topic(), json.loads(record.value()))


if __name__ == "__main__":
    main()
