"""The studio itself as HTML: health, load over time, workers, limits, versions, settings. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from studio.limits import LimiterState
from studio.schemas import CheckName, HealthCheck, HealthReport, HealthStatus
from studio.settings import InEffect
from studio.ui.cards import escape, seconds
from studio.vitals import Machine, Sample, WorkerSeen

CHECKS: dict[CheckName, str] = {"database": "Database", "queue": "Queue", "gpu": "GPU", "disk_space": "Disk space"}
SUMS = {
    HealthStatus.HEALTHY: "Everything works.",
    HealthStatus.DEGRADED: "Everything works, though not as well as it could.",
    HealthStatus.UNHEALTHY: "Something does not work.",
}
CHART_W, CHART_H = 300, 84  # of the view box


# Health


def health(report: HealthReport) -> str:
    """The sum in a sentence, and the four checks, each with its colour, its word and its reason."""
    cells = "".join(_check(name, report.checks[name]) for name in CHECKS if name in report.checks)
    return (
        f'<section class="health" data-status="{report.status}"><header class="sum {report.status}">'
        f"<h2>{_dot(report.status)}{SUMS[report.status]}</h2>"
        f"<p>Version {escape(report.version)}, up for {_uptime(report.uptime_seconds)}</p></header>"
        f'<div class="checks">{cells}</div></section>'
    )


def _check(name: CheckName, check: HealthCheck) -> str:
    return (
        f'<div class="check {check.status}" data-key="{name}"><h3>{_dot(check.status)}{CHECKS[name]}'
        f"<span>{check.status.capitalize()}</span></h3><p>{escape(check.message)}{_more(name, check)}</p></div>"
    )


def _more(name: CheckName, check: HealthCheck) -> str:
    if name == "database" and "latency_ms" in check.details:
        return f", answers in {check.details['latency_ms']:.1f} ms"
    if name == "queue" and check.details.get("workers_alive"):
        number = check.details["workers_alive"]
        return f", {number} worker{'s' * (number > 1)} alive"
    return ""


def _dot(status: HealthStatus) -> str:
    return f'<i class="dot {status}" role="img" aria-label="{status}"></i>'


def _uptime(uptime_s: float) -> str:
    days, rest = divmod(int(uptime_s), 86400)
    return f"{days} d {rest // 3600} h" if days else seconds(rest)


# Over time


def charts(samples: Sequence[Sample], machine: Machine) -> str:
    """Processor, memory and, where there is one, GPU over the last minutes."""
    drawn = [
        _chart("Processor", "%", 100, samples, lambda at: at.cpu_percent, lambda at: at.own_cpu_percent),
        _chart("Memory", "GB", machine.memory_gb, samples, lambda at: at.memory_gb, lambda at: at.own_memory_gb),
        _chart("GPU", "%", 100, samples, lambda at: at.gpu_percent),
        _chart("GPU memory", "GB", None, samples, lambda at: at.gpu_memory_gb),
    ]
    return f'<div class="charts">{"".join(drawn)}</div>'


def _chart(
    title: str,
    unit: str,
    top: float | None,
    samples: Sequence[Sample],
    whole: Callable[[Sample], float | None],
    own: Callable[[Sample], float | None] | None = None,
) -> str:
    """One figure over time: the machine's as a line, the studio's own share of it as an area; empty without data."""
    line = [value for at in samples if (value := whole(at)) is not None]
    if not line:
        return "" if own is None else f'<figure class="chart"><figcaption>{title}<b>–</b></figcaption></figure>'
    area = [value for at in samples if own and (value := own(at)) is not None]
    top = top or max(*line, 1.0)
    span = seconds((samples[-1].at - samples[0].at).total_seconds())
    share = f"<small>the studio {_amount(area[-1], unit)}</small>" if area else ""
    return (
        f'<figure class="chart" data-key="{title}"><figcaption>{title}<b>{_amount(line[-1], unit)}</b>{share}'
        f'</figcaption><svg viewBox="0 0 {CHART_W} {CHART_H}" preserveAspectRatio="none" role="img" '
        f'aria-label="{title} over the last {span}"><path class="area" d="{_area(area or line, top)}"></path>'
        f'<path class="line" d="{_line(line, top)}"></path></svg>'
        f"<footer><span>{span} ago</span><span>now</span></footer></figure>"
    )


def _amount(value: float, unit: str) -> str:
    return f"{value:.0f} %" if unit == "%" else f"{value:.1f} {unit}"


def _line(values: Sequence[float], top: float) -> str:
    """The values from left to right as an SVG path."""
    step = CHART_W / max(1, len(values) - 1)
    points = [
        f"{number * step:.1f} {CHART_H - 1 - (CHART_H - 2) * min(1.0, value / top):.1f}"
        for number, value in enumerate(values)
    ]
    return f"M{' L'.join(points if len(points) > 1 else [points[0], f'{CHART_W} {points[0].split()[1]}'])}"


def _area(values: Sequence[float], top: float) -> str:
    return f"{_line(values, top)} V{CHART_H} H0 Z"


# What runs, and how


def workers(seen: Sequence[WorkerSeen]) -> str:
    """Who makes the music."""
    if not seen:
        return _panel("Workers", '<p class="quiet">None has started.</p>')
    items = "".join(
        f'<li data-key="{escape(worker.worker_id)}">{_dot(_HEALTH[worker.alive])}<div><b>{escape(worker.host)}</b>, '
        f"process {worker.pid}<p>{_at_work(worker)}</p></div></li>"
        for worker in seen
    )
    return _panel("Workers", f'<ul class="workers">{items}</ul>')


_HEALTH = {True: HealthStatus.HEALTHY, False: HealthStatus.UNHEALTHY}


def _at_work(worker: WorkerSeen) -> str:
    if not worker.alive:
        return f"silent for {seconds(worker.silent_s, exact=False)}"
    if not worker.model:
        return "has not loaded a model yet"
    slots = f"{worker.slots} job{'s' * (worker.slots > 1)} at once"
    return f"{escape(worker.model)} on {escape(worker.device)}, {slots}"


def limiter(state: LimiterState) -> str:
    """What the rate limit does."""
    if not state.enabled:
        return _panel("Rate limit", '<p class="quiet">Switched off.</p>')
    return _panel(
        "Rate limit",
        _pairs({
            "Each client": "; ".join(state.limits),
            "Never limited": ", ".join(state.exempt) or "nobody",
            "Counted in": state.where,
            "Clients counted": state.clients,
            "Refused since the start": state.refusals,
        }),
    )  # fmt: skip


def versions(machine: Machine, database: str) -> str:
    """The host and what is installed on it."""
    host = {"Processor": f"{machine.processor}, {machine.cores} cores", "Memory": f"{machine.memory_gb:.0f} GB"}
    return _panel("Versions", _pairs({**machine.versions, "Database": database, "System": machine.system, **host}))


def links(login: bool) -> str:
    """What programs use; and the way out, where people log in."""
    pairs = {"/api/v1/docs": "REST", "/?view=api": "Gradio’s endpoints", "/metrics": "Prometheus"}
    items = ", ".join(f'<a href="{path}" target="_blank">{words}</a>' for path, words in pairs.items())
    leave = '<form class="links" method="post" action="logout"><button>Log out</button></form>' if login else ""
    return f'<p class="links">For programs: {items}</p>{leave}'


def settings(table: Sequence[InEffect]) -> str:
    """All settings; those that differ from the default first. What is secret has been taken out before."""
    changed = [setting for setting in table if setting.changed]
    rows = "".join(map(_setting, [*changed, *(setting for setting in table if not setting.changed)]))
    summary = (
        f"{len(changed)} of {len(table)} differ from the default" if changed else f"All {len(table)} as by default"
    )
    return (
        f'<details class="panel settings" data-key="settings"><summary><h3>Settings in effect</h3>'
        f"<span>{summary}</span></summary><dl>{rows}</dl></details>"
    )


def _setting(setting: InEffect) -> str:
    mark = ' class="changed"' if setting.changed else ""
    meaning = _MARKED.sub(r"<code>\1</code>", escape(setting.meaning))
    return (
        f"<div{mark}><dt>{escape(setting.variable)}</dt><dd><code>{escape(setting.value)}</code>"
        f"<p>{meaning}</p></dd></div>"
    )


_MARKED = re.compile("&#96;(.*?)&#96;")  # a backtick as `escape` writes it


def _panel(title: str, body: str) -> str:
    return f'<section class="panel" data-key="{title}"><h3>{title}</h3>{body}</section>'


def _pairs(pairs: dict[str, object]) -> str:
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs.items())
    return f'<dl class="pairs">{cells}</dl>'
