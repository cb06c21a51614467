"""What the journal of calls must show of a run that is closed, whatever befell it."""

from collections import Counter

LOST = {"response lost", "connection lost before it was executed"}
REPEATED = {"RequestLimitExceeded", "Throttling", "InternalError"}


def check_closed(cloud, run_id):
    """Exactly one RunInstances per candidate that was asked, no instance alive at CLOSED, one result at most.

    A second call under one token is right only after an answer that was lost or a call that was throttled, or from a controller
    that took over; it makes nothing: a token has one instance, and an attempt has one.
    """
    prefix = f"runs/{run_id}"
    launches = [call for call in cloud.calls("RunInstances") if run_id in call["params"].values()]
    unanswered = Counter(call["client_token"] for call in launches if call["error"] in LOST | REPEATED)
    # What a controller asks again that took over from one which died before it could note the answer: EC2 made nothing.
    replayed = [call for call in launches if call.get("replayed") or call["error"] == "IdempotentInstanceTerminated"]
    calls = Counter(call["client_token"] for call in launches if call not in replayed)
    assert {token: count for token, count in calls.items() if count > 1 + unanswered[token]} == {}

    instances = cloud.instances(**{"longfuse:run": run_id})
    made = Counter(item["client_token"] for item in instances)
    assert all(count == 1 for count in made.values()), made
    attempts = Counter(item["tags"]["longfuse:attempt"] for item in instances)
    assert all(count == 1 for count in attempts.values()), "an attempt has one instance"

    closed = [call for call in cloud.calls("PutObject", key=f"{prefix}/closed.json") if call["status"] == 200]
    assert len(closed) == 1, "a run is closed once"
    for item in instances:
        moment, state = item["timeline"][-1]
        assert state == "terminated"
        assert moment <= closed[0]["time"], f"{item['id']} was alive at CLOSED"
    assert [call for call in launches if call["time"] > closed[0]["time"]] == []

    written = [call for call in cloud.calls("PutObject", key=f"{prefix}/result.json") if call["status"] == 200]
    assert len(written) <= 1, "a result is written once"
    return written
