"""One worker, or a few side by side: what it runs, how long that takes, what it suffers from."""

from __future__ import annotations

from monitoring.grafana.expressions import COMMON, WORKER, kept, kept_rate, named, ours, quantile, rate, rise
from monitoring.grafana.model import Dashboard, Panel, Query, Row, Text, lines, queries, query, stat

ONE = 'worker_id=~"$worker"'
EACH = "{{worker_id}}"
BREAKER = {
    "0": (Text("closed", "关闭"), "green"),
    "1": (Text("half-open", "半开"), "orange"),
    "2": (Text("open", "打开"), "red"),
}


def slow(q: float, family: str) -> str:
    """Return a quantile per chosen worker of a histogram that does not name the worker."""
    return quantile(q, named(rate(family + "_bucket")), "worker_id")


BUSY = Row(
    Text("Is it busy?", "忙吗？"),
    (
        stat(
            Text("Running / window", "运行中 / 窗口"),
            Text("How full is the window? 100 %: more slots may help, if the machine and the database can.",
                 "窗口占用多少？100 %：若机器与数据库有余力，可增加槽位。"),
            "sum by (worker_id) (%s) / sum by (worker_id) (%s)"
            % (ours("node_tasks_active_processing", ONE), ours("node_task_window_size", ONE)),
            "percentunit", legend=EACH, width=6, maximum=1.0,
        ),
        stat(
            Text("Last heartbeat", "最近心跳"),
            Text("Is it heard? Age of the last heartbeat that the store answered; its lease is the limit.",
                 "心跳正常吗？存储最近一次应答心跳以来的时间，上限是租约。"),
            "time() - (%s > 0)" % kept("node_heartbeat_timestamp_seconds", ONE), "s", legend=EACH, width=6,
            thresholds=((None, "green"), (15.0, "orange"), (30.0, "red")), absent=Text("never", "从未"),
            runbook="ElkCoordinatorWorkerHeartbeatStale",
        ),
        stat(
            Text("Hung processors", "卡死的处理器"),
            Text("Does user code ignore its cancellation? The log has the stack.", "用户代码是否不理会取消？堆栈见日志。"),
            "sum by (worker_id) (%s)" % ours("node_tasks_hung", ONE), "short", legend=EACH, width=6,
            thresholds=((None, "green"), (1.0, "red")), runbook="ElkCoordinatorTasksHung",
        ),
        stat(
            Text("Stopping", "停止中"),
            Text("Is it draining? Then it claims nothing more.", "是否在收尾？收尾时不再领取。"),
            ours("stopping", ONE), "short", legend=EACH, width=6,
            names={"0": (Text("no", "否"), "green"), "1": (Text("draining", "收尾中"), "orange")},
        ),
        lines(
            Text("Slots and held partitions", "槽位与持有的分区"),
            Text("What does it hold? Running at most the window; prefetched only when partitions are short.",
                 "它持有什么？运行中不超过窗口；仅当分区很短时才预取。"),
            queries(
                (ours("node_tasks_active_processing", ONE), Text("{{worker_id}} running", "{{worker_id}} 运行中")),
                (ours("node_task_window_size", ONE), Text("{{worker_id}} window", "{{worker_id}} 窗口")),
                (ours("node_tasks_prefetched", ONE), Text("{{worker_id}} prefetched", "{{worker_id}} 预取")),
                (kept("node_task_queue_active_tasks", ONE), Text("{{worker_id}} queued", "{{worker_id}} 排队")),
            ),
            "short",
        ),
        lines(
            Text("Partitions per second", "每秒分区数"),
            Text("How much does it complete?", "它完成多少？"),
            query("sum by (worker_id) (%s)" % kept_rate("node_tasks_processed_total", ONE), EACH), "ops",
        ),
        lines(
            Text("Items per second", "每秒处理条数"),
            Text("How many items does it work off?", "它处理多少条目？"),
            query("sum by (worker_id) (%s)" % kept_rate("node_tasks_processed_items_total", ONE), EACH), "cps",
        ),
    ),
)  # fmt: skip

LONG = Row(
    Text("How long does it take?", "耗时多久？"),
    (
        lines(
            Text("Processor", "处理器"),
            Text("How long does the user's code run?", "用户代码运行多久？"),
            queries(*(
                (quantile(q, kept_rate("node_task_processor_duration_seconds_bucket", ONE), "worker_id"), EACH + label)
                for q, label in ((0.5, " 50 %"), (0.99, " 99 %"))
            )),
            "s",
        ),
        lines(
            Text("With report", "含上报"),
            Text("How long until the store took the result? Far above the processor's own time: the store is slow.",
                 "结果被存储接受要多久？远大于处理器耗时说明存储慢。"),
            query(
                quantile(0.99, kept_rate("node_task_processing_duration_seconds_bucket", ONE), "worker_id"),
                EACH + " 99 %",
            ),
            "s", runbook="ElkCoordinatorStoreLatencyHigh",
        ),
        Panel(
            "heatmap",
            Text("Processor durations", "处理器耗时分布"),
            Text("One kind of partition or several? Two bands are two kinds of work.",
                 "分区是一类还是多类？两条带说明有两类工作。"),
            (Query("sum by (le) (%s)" % kept_rate("node_task_processor_duration_seconds_bucket", ONE), "{{le}}"),),
            "s", minimum=None,
        ),
    ),
)  # fmt: skip

FAILS = Row(
    Text("What does it suffer from?", "有什么问题？"),
    (
        lines(
            Text("Failed attempts", "失败的尝试"),
            Text("What does its processor raise? Only this worker: its machine, its connections, its version.",
                 "处理器抛出什么？若仅此节点如此：查机器、连接与版本。"),
            query("sum by (worker_id, error_type) (%s) > 0" % kept_rate("node_tasks_errors_total", ONE),
                  "{{worker_id}} {{error_type}}"),
            "ops", runbook="ElkCoordinatorFailureRatioHigh",
        ),
        Panel(
            "state-timeline",
            Text("Circuit breaker", "熔断器"),
            Text("Since when does it claim nothing? Open: nothing is claimed; half-open: a few probes.",
                 "从何时起不再领取？打开：不领取；半开：少量试探。"),
            query(ours("node_circuit_breaker_state", ONE), EACH), "short", names=BREAKER,
            runbook="ElkCoordinatorCircuitBreakerOpen",
        ),
        lines(
            Text("Breaker trips", "熔断次数"),
            Text("How often did it open?", "熔断器打开了多少次？"),
            query("increase(elk_coordinator_node_circuit_breaker_tripped_total{job=~\"$job\", %s}[$__rate_interval])"
                  % ONE, EACH),
            "short", runbook="ElkCoordinatorCircuitBreakerOpen",
        ),
        lines(
            Text("Claims lost and writes refused", "租约丢失与写入被拒"),
            Text("Does it keep its leases? If not: starved of CPU, frozen, or cut off from the store.",
                 "能保住租约吗？否则：缺 CPU、被冻结或与存储断开。"),
            queries(
                ("sum by (worker_id) (%s)" % named(rise("lease_lost_total")),
                 Text("{{worker_id}} lost", "{{worker_id}} 丢失")),
                ("sum by (worker_id) (%s)" % named(rise("writes_refused_total")),
                 Text("{{worker_id}} refused", "{{worker_id}} 被拒")),
            ),
            "short", runbook="ElkCoordinatorLeaseLostHigh",
        ),
        lines(
            Text("Heartbeats behind schedule (99 %)", "心跳延迟（99 %）"),
            Text("Is this process held up? The GIL, the CPU, a suspended machine, or a store that does not answer.",
                 "进程被拖住了吗？GIL、CPU、被挂起的机器，或无应答的存储。"),
            query(slow(0.99, "heartbeat_lateness_seconds"), EACH), "s", runbook="ElkCoordinatorWorkerHeartbeatStale",
        ),
        lines(
            Text("Heartbeats without an answer", "无应答的心跳"),
            Text("Does the store answer its heartbeats?", "存储应答它的心跳吗？"),
            query(
                "increase(elk_coordinator_node_heartbeat_errors_total{job=~\"$job\", %s}[$__rate_interval])" % ONE, EACH
            ),
            "short", runbook="ElkCoordinatorStoreErrors",
        ),
    ),
)  # fmt: skip

STORE = Row(
    Text("Is it the store?", "是存储的原因吗？"),
    (
        lines(
            Text("Claims (95 %)", "领取（95 %）"),
            Text("How long does a claim that brings work take?", "一次有收获的领取要多久？"),
            query(slow(0.95, "claim_duration_seconds"), EACH), "s", runbook="ElkCoordinatorStoreLatencyHigh",
        ),
        lines(
            Text("Reports (95 %)", "上报（95 %）"),
            Text("How long does a report take?", "一次上报要多久？"),
            query(slow(0.95, "report_duration_seconds"), EACH), "s", runbook="ElkCoordinatorStoreLatencyHigh",
        ),
        lines(
            Text("Store errors", "存储错误"),
            Text("Which errors does it see?", "它遇到哪些错误？"),
            query("sum by (worker_id, kind) (%s)" % named(rise("store_errors_total")), "{{worker_id}} {{kind}}"), "short",
            runbook="ElkCoordinatorStoreErrors",
        ),
        lines(
            Text("Clock against the store's", "与存储的时钟差"),
            Text("Does its wall clock go right? Leases do not depend on it; the times people read do.",
                 "时钟准吗？租约不依赖它，但人看到的时间依赖它。"),
            query(ours("store_clock_offset_seconds", ONE), EACH), "s", minimum=None, runbook="ElkCoordinatorClockSkew",
        ),
        Panel(
            "table",
            Text("Versions", "版本"),
            Text("What runs here? Library, Python, system.", "这里运行什么？库、Python 与系统的版本。"),
            (Query(kept("node_info", ONE), "{{worker_id}}  {{version}}  Python {{python_version}}  {{os_type}}", instant=True),), "none",
        ),
        lines(
            Text("Lease and worker TTL in force", "生效的租约与节点 TTL"),
            Text("Which settings are in force? They may change at run time; all workers should show the same.",
                 "哪些设置在生效？运行时可变；所有节点应一致。"),
            queries(
                (ours("lease_seconds", ONE), Text("{{worker_id}} lease", "{{worker_id}} 租约")),
                (ours("worker_ttl_seconds", ONE), Text("{{worker_id}} worker TTL", "{{worker_id}} 节点 TTL")),
            ),
            "s", runbook="ElkCoordinatorConfigDrift",
        ),
    ),
)  # fmt: skip

DASHBOARD = Dashboard(
    "worker",
    Text("Elk / Worker", "Elk / 工作节点"),
    Text("One worker, or some side by side: what it runs, how long that takes, what it suffers from.",
         "一个或几个节点：在运行什么、耗时多久、有什么问题。"),
    (*COMMON, WORKER),
    (BUSY, LONG, FAILS, STORE),
)  # fmt: skip
