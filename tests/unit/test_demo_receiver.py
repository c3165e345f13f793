"""The demo's webhook takes what is signed with its secret, once, and nothing else."""

import time
import urllib.error
import urllib.request

import orjson
import pytest

from agent.demo.receiver import Receiver
from agent.respond.signing import read_keys, signature


@pytest.fixture
def receiver(tmp_path):
    with Receiver(tmp_path) as made:
        yield made


def post(receiver, *, id="a1", action="rollback", now=None, key=None, body=b'{"type":"t"}'):
    """The answer's status."""
    now = int(time.time()) if now is None else now
    keys = [key] if key else read_keys(str(receiver.secret_file), "secret_file")
    headers = {
        "webhook-id": id,
        "webhook-timestamp": str(now),
        "webhook-signature": signature(id, now, body, keys),
    }
    request = urllib.request.Request(f"{receiver.url}/{action}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        refused.close()
        return refused.code


def test_a_signed_event_is_heard_with_the_action_it_was_sent_to(receiver):
    assert post(receiver) == 204
    (heard,) = receiver.heard()
    assert (heard.action, heard.event) == ("rollback", {"type": "t"})
    assert receiver.heard() == []


def test_a_repeat_is_accepted_and_heard_once_for_each_action(receiver):
    assert [post(receiver), post(receiver), post(receiver, action="on-call")] == [204, 204, 204]
    assert [heard.action for heard in receiver.heard()] == ["rollback", "on-call"]


def test_a_wrong_key_an_old_signature_and_too_much_are_refused(receiver):
    assert post(receiver, key=b"x" * 32) == 401
    assert post(receiver, now=int(time.time()) - 3600) == 401
    assert post(receiver, body=b" " * ((1 << 20) + 1)) == 413
    assert receiver.heard() == []
    assert receiver.n_refused == 2


def test_a_request_without_a_signature_is_refused(receiver):
    request = urllib.request.Request(f"{receiver.url}/rollback", orjson.dumps({}))
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        urllib.request.urlopen(request, timeout=10)
    refused.value.close()


def test_the_secret_is_for_its_owner_alone_and_another_each_time(receiver, tmp_path):
    assert receiver.secret_file.stat().st_mode & 0o777 == 0o600
    (tmp_path / "other").mkdir()
    with Receiver(tmp_path / "other") as other:
        assert other.secret_file.read_text() != receiver.secret_file.read_text()
        assert other.url != receiver.url
