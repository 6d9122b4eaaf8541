"""The metrics of ``--status``, for the tests of the metrics and of the examples that use them."""

from __future__ import annotations

#: The labels of each metric. A histogram stands here once, and without ``le``.
METRICS: dict[str, set[str]] = {
    "spoa_info": {"version", "python", "twisted"},
    "spoa_messages_total": {"message", "result"},
    "spoa_message_duration_seconds": {"message"},
    "spoa_notify_duration_seconds": set(),
    "spoa_connections": {"worker"},
    "spoa_in_flight": {"worker"},
    "spoa_connections_made_total": set(),
    "spoa_connections_refused_total": set(),
    "spoa_health_checks_total": set(),
    "spoa_disconnects_total": {"by", "code"},
    "spoa_dropped_total": {"reason"},
    "spoa_blocking_waiting": set(),
    "spoa_held_back_bytes": set(),
    "spoa_reactor_stalls_total": set(),
    "spoa_reactor_stall_seconds_total": set(),
    "spoa_reactor_lag_seconds": {"worker"},
    "spoa_worker_restarts_total": {"reason"},
    "spoa_reloads_total": {"result"},
    "spoa_last_reload_success": set(),
    "spoa_worker_cpu_seconds_total": {"worker"},
    "spoa_worker_resident_memory_bytes": {"worker"},
}
