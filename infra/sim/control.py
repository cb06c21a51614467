"""The control address of the simulator: what no AWS call can do, as POST /_simulator/VERB with a JSON body.

fault {rule}  clear {number}  journal {since}  calls {facts}  instances {tags}  notice {id, seconds}  kill {id}  break {id}
rebalance {id}  freeze {id}  thaw {id}  oom {id, command}  console {id}  quota {code, value}
behave {options}: of instances that boot from now on
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import psutil

from infra.sim import answers, hosts, machines
from infra.sim.faults import Rule
from infra.sim.host import HostOptions
from infra.sim.wire import read_body

if TYPE_CHECKING:
    from infra.sim.server import Cloud

Arguments = dict[str, Any]


def _console(cloud: Cloud, a: Arguments) -> str:
    host = cloud.hosts.hosts.get(a["id"])
    return host.console.read_text(encoding="utf-8", errors="replace") if host is not None else ""


def _quota(cloud: Cloud, a: Arguments) -> None:
    cloud.quotas.values[a["code"]] = a["value"]


def _behave(cloud: Cloud, a: Arguments) -> None:
    known = cloud.hosts.options.model_dump()
    cloud.hosts.options = HostOptions.model_validate({**known, **a["options"]})


VERBS: dict[str, Callable[[Cloud, Arguments], Any]] = {
    "fault": lambda cloud, a: cloud.faults.add(Rule.model_validate(a["rule"])),
    "clear": lambda cloud, a: cloud.faults.remove(a.get("number")),
    "hits": lambda cloud, a: cloud.faults.hits(a["number"]),
    "journal": lambda cloud, a: cloud.journal.entries(a.get("since", 0)),
    "calls": lambda cloud, a: [entry for entry in cloud.journal.entries() if a["facts"].items() <= entry.items()],
    "instances": lambda _cloud, a: [
        found
        for region, instance in machines.all_instances()
        if a.get("tags", {}).items() <= (found := machines.describe(instance, region))["tags"].items()
    ],
    "notice": lambda cloud, a: cloud.hosts.reclaim(a["id"], a["seconds"]),
    "kill": lambda cloud, a: cloud.hosts.reclaim(a["id"]),
    "break": lambda cloud, a: cloud.hosts.reclaim(a["id"], 0.0, machines.BROKEN),
    "rebalance": lambda cloud, a: cloud.hosts.host(a["id"]).tell_rebalance(),
    "freeze": lambda cloud, a: hosts.signal_all(cloud.hosts.host(a["id"]), signal.SIGSTOP),
    "thaw": lambda cloud, a: hosts.signal_all(cloud.hosts.host(a["id"]), signal.SIGCONT),
    "oom": lambda cloud, a: hosts.out_of_memory(cloud.hosts.host(a["id"]), a["command"]),
    "behave": _behave,
    "console": _console,
    "quota": _quota,
}


def control(cloud: Cloud, environ: dict[str, Any], start_response: answers.StartResponse) -> Iterable[bytes]:
    """Answer one control request."""
    verb = environ["PATH_INFO"].rpartition("/")[2]
    arguments = json.loads(read_body(environ) or b"{}")
    if verb not in VERBS:
        return answers.json_answer(start_response, 404, {"error": f"no verb {verb}"})
    try:
        value = VERBS[verb](cloud, arguments)
    except (KeyError, ValueError, psutil.Error) as error:  # no such instance, or it has ended just now
        return answers.json_answer(start_response, 400, {"error": f"{type(error).__name__}: {error}"})
    return answers.json_answer(start_response, 200, value)
