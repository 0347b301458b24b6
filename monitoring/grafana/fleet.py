"""The page to open first: is it moving, when is it done, what fails, who is slow."""

from __future__ import annotations

from monitoring.grafana.expressions import (
    COMMON,
    INTERVAL,
    WORKERS,
    kept_rate,
    ours,
    outcome_ratio,
    quantile,
    rate,
    rise,
)
from monitoring.grafana.model import Dashboard, Panel, Query, Row, Text, lines, queries, query, stat

FAILED = "error|permanent"
GREEN_RED = ((None, "green"), (1.0, "red"))
GREEN_AMBER = ((None, "green"), (1.0, "orange"))
BY = "max by (coordinator) (%s)"

NOW = Row(
    Text("Now", "当前状态"),
    (
        stat(
            Text("Items per second", "每秒处理条数"),
            Text("Is it moving? Items in completed partitions, all workers together.",
                 "是否在推进？所有工作节点已完成分区的条目处理速度之和。"),
            "sum by (coordinator) (%s * on (job, instance, worker_id) group_left (coordinator) (%s >= bool 0))"
            % ("rate(elk_coordinator_node_tasks_processed_items_total{job=~\"$job\"}%s)" % INTERVAL, WORKERS),
            "cps", runbook="ElkCoordinatorStalled",
        ),
        stat(
            Text("Backlog", "积压"),
            Text("How much is left? IDs that are planned and neither completed nor failed.",
                 "还剩多少？已规划、尚未完成也未失败的 ID 数量。"),
            BY % ours("backlog_items"), "short", runbook="ElkCoordinatorBacklogOld",
        ),
        stat(
            Text("Done in", "预计剩余时间"),
            Text("When is it done? Time left at the speed of the last minutes; no value while that cannot be told, "
                 "or nothing is left.",
                 "何时完成？按最近几分钟速度估算的剩余时间；无法估算或已无剩余时不显示。"),
            "clamp_min(%s - time(), 0)" % (BY % ours("estimated_completion_timestamp_seconds")), "s",
            absent=Text("unknown", "未知"), runbook="ElkCoordinatorWillMissDeadline",
        ),
        stat(
            Text("Live workers", "存活节点"),
            Text("Is everybody here? Workers whose heartbeat the store still counts.",
                 "节点是否到齐？存储中心跳仍然有效的工作节点数。"),
            "sum by (coordinator) (%s)" % ours("workers"), "short", thresholds=((None, "red"), (1.0, "green")),
            runbook="ElkCoordinatorWorkersMissing",
        ),
        stat(
            Text("Failed partitions", "失败分区"),
            Text("What has been given up? Partitions without an attempt left; they wait for `elk retry`.",
                 "有哪些已放弃？已用尽重试次数的分区，等待执行 `elk retry`。"),
            BY % ours("partitions", 'status="failed"'), "short", thresholds=GREEN_RED,
            runbook="ElkCoordinatorPartitionsFailed",
        ),
        stat(
            Text("Workers with an open breaker", "熔断节点"),
            Text("Who refuses work? Workers that claim nothing because too much failed.",
                 "谁停止领取？因失败过多而熔断、不再领取分区的节点数。"),
            "sum by (coordinator) (%s == bool 2)" % ours("node_circuit_breaker_state"), "short", thresholds=GREEN_RED,
            runbook="ElkCoordinatorCircuitBreakerOpen",
        ),
        stat(
            Text("Leaders", "主节点数"),
            Text("Is exactly one worker planning? 0: nothing new is planned. 2 for longer than a scrape: see the runbook.",
                 "是否恰有一个节点在规划？0 表示没有新的规划；持续为 2 请看手册。"),
            "count by (coordinator) (%s)" % ours("leader_term"), "short",
            thresholds=((None, "red"), (1.0, "green"), (2.0, "red")), absent="0", runbook="ElkCoordinatorNoLeader",
        ),
        stat(
            Text("Paused", "暂停"),
            Text("Did somebody pause it? 1: no worker claims until `elk resume`.",
                 "是否被暂停？1 表示执行 `elk resume` 之前没有节点会领取分区。"),
            BY % ours("paused"), "short", thresholds=GREEN_AMBER,
            names={"0": (Text("no", "否"), "green"), "1": (Text("paused", "已暂停"), "orange")},
            runbook="ElkCoordinatorPausedTooLong",
        ),
        stat(
            Text("Store reachable", "存储可用"),
            Text("Can the workers reach the store? The worst of them counts.",
                 "节点能否访问存储？以最差的节点为准。"),
            "min by (coordinator) (%s)" % ours("store_up"), "short", thresholds=((None, "red"), (1.0, "green")),
            names={"0": (Text("no", "否"), "red"), "1": (Text("yes", "是"), "green")},
            runbook="ElkCoordinatorStoreDown",
        ),
        stat(
            Text("Different settings", "配置种类"),
            Text("Do all workers agree? More than 1 for longer than a rollout: some run with other options.",
                 "所有节点配置一致吗？发布结束后仍大于 1，说明有节点使用了不同的选项。"),
            'count by (coordinator) (count_values by (coordinator) ("fingerprint", %s))' % ours("config_fingerprint"),
            "short", thresholds=((None, "green"), (2.0, "orange")), runbook="ElkCoordinatorConfigDrift",
        ),
        stat(
            Text("Oldest pending", "最久等待"),
            Text("Does anything starve? Age of the partition that has waited longest.",
                 "是否有分区饿死？等待最久的分区已等待的时间。"),
            "time() - min by (coordinator) (%s)" % ours("oldest_pending_timestamp_seconds"), "s",
            thresholds=((None, "green"), (3600.0, "orange"), (14400.0, "red")), absent=Text("none", "无"),
            runbook="ElkCoordinatorBacklogOld",
        ),
        stat(
            Text("Last success", "最近一次成功"),
            Text("When did anything last succeed? Time since a completion was accepted, on any worker.",
                 "最近一次成功是多久以前？任一节点的完成被接受以来的时间。"),
            "time() - %s" % (BY % (ours("last_success_timestamp_seconds") + " > 0")), "s",
            thresholds=((None, "green"), (600.0, "orange"), (1800.0, "red")), absent=Text("never", "从未"),
            runbook="ElkCoordinatorStalled",
        ),
    ),
)  # fmt: skip

MOVING = Row(
    Text("Is it moving?", "是否在推进？"),
    (
        lines(
            Text("Items per second by worker", "各节点每秒处理条数"),
            Text("Does every worker do its share? One line far below its peers is slow, starved or broken.",
                 "每个节点都在出力吗？明显低于其他节点的线意味着慢、饥饿或故障。"),
            query("sum by (worker_id) (%s)" % kept_rate("node_tasks_processed_items_total"), "{{worker_id}}"),
            "cps", stacked=True, runbook="ElkCoordinatorStalled",
        ),
        lines(
            Text("Partitions by status", "各状态的分区"),
            Text("Where does the work stand? Pending should fall, or stay level while new IDs arrive.",
                 "工作处于什么阶段？等待中的应下降，或在新 ID 到来时保持平稳。"),
            query("max by (coordinator, status) (%s)" % ours("partitions", 'status!="completed"'),
                  "{{coordinator}} {{status}}"),
            "short", runbook="ElkCoordinatorStalled",
        ),
        lines(
            Text("Backlog over time", "积压趋势"),
            Text("Does the backlog shrink? It grows when IDs arrive faster than they are worked off.",
                 "积压在减少吗？ID 到来快于处理时会增长。"),
            query(BY % ours("backlog_items")),
            "short", runbook="ElkCoordinatorBacklogOld",
        ),
    ),
)  # fmt: skip

FAILING = Row(
    Text("What fails?", "什么在失败？"),
    (
        lines(
            Text("Attempts by outcome", "各结果的尝试"),
            Text("How do attempts end? Anything but `completed` costs time; `lost` points at the store or at dying workers.",
                 "尝试如何结束？除 `completed` 外都在浪费时间；`lost` 指向存储或正在死亡的节点。"),
            query("sum by (outcome) (%s)" % rate("partition_attempts_total"), "{{outcome}}"),
            "ops", stacked=True, runbook="ElkCoordinatorFailureRatioHigh",
        ),
        lines(
            Text("Failed attempts by kind of error", "各错误类型的失败"),
            Text("What do the processors raise? The kinds are few on purpose; the log has the tracebacks.",
                 "处理器抛出什么错误？类型刻意保持很少；完整堆栈在日志中。"),
            query("sum by (error_type) (%s)" % kept_rate("node_tasks_errors_total"), "{{error_type}}"),
            "ops", stacked=True, runbook="ElkCoordinatorFailureRatioHigh",
        ),
        lines(
            Text("Failure ratio", "失败率"),
            Text("Which part of the attempts fails? A line above 5 % is worth a look.",
                 "失败的尝试占多大比例？超过 5 % 值得查看。"),
            query(outcome_ratio(FAILED, "$__rate_interval")), "percentunit", maximum=1.0,
            thresholds=((None, "green"), (0.05, "red")), limits=True, runbook="ElkCoordinatorFailureRatioHigh",
        ),
        lines(
            Text("Claims lost, writes refused, partitions taken back", "租约丢失、写入被拒、分区回收"),
            Text("Do leases hold? All three stay at 0 unless workers die, freeze or lose the store.",
                 "租约稳定吗？除非节点死亡、冻结或失去存储，三者都应为 0。"),
            queries(
                ("sum by (reason) (%s)" % rise("lease_lost_total"), Text("lost: {{reason}}", "丢失：{{reason}}")),
                ("sum by (what) (%s)" % rise("writes_refused_total"), Text("refused: {{what}}", "被拒：{{what}}")),
                ("sum by (reason) (%s)" % rise("reclaims_total"), Text("taken back: {{reason}}", "回收：{{reason}}")),
            ),
            "short", width=12, runbook="ElkCoordinatorLeaseLostHigh",
        ),
        lines(
            Text("Workers by state", "各状态的节点"),
            Text("What do the workers do? A fall means that some died or were stopped.",
                 "节点在做什么？下降说明有节点死亡或被停止。"),
            query("max by (coordinator, state) (%s)" % ours("workers"), "{{coordinator}} {{state}}"),
            "short", width=12, stacked=True, runbook="ElkCoordinatorWorkersMissing",
        ),
    ),
)  # fmt: skip

SLOW = Row(
    Text("Who is slow, and is it the store?", "谁慢？是存储的原因吗？"),
    (
        Panel(
            "bargauge",
            Text("Slowest workers (95 % of partitions)", "最慢的节点（95 % 分位）"),
            Text("Who is slow? Ten workers whose processors take longest.", "谁慢？处理器耗时最长的十个节点。"),
            (Query("topk(10, %s)" % quantile(0.95, kept_rate("node_task_processor_duration_seconds_bucket"), "worker_id"),
                   "{{worker_id}}", instant=True),),
            "s",
        ),
        lines(
            Text("Duration of a partition", "单个分区耗时"),
            Text("How long does a partition take? Far apart lines mean a few very slow ones: smaller partitions help.",
                 "一个分区要多久？几条线相差很大说明有个别极慢的分区：减小分区有帮助。"),
            queries(
                *((quantile(q, kept_rate("node_task_processor_duration_seconds_bucket")), name)
                  for q, name in ((0.5, "50 %"), (0.95, "95 %"), (0.99, "99 %")))
            ),
            "s",
        ),
        lines(
            Text("Slots in use", "使用中的槽位"),
            Text("Are the workers busy? Well below the window: too little is planned, or everything waits for a retry.",
                 "节点忙吗？远低于窗口：规划不足，或都在等待重试。"),
            queries(
                ("sum by (coordinator) (%s)" % ours("node_tasks_active_processing"),
                 Text("{{coordinator}} in use", "{{coordinator}} 使用中")),
                ("sum by (coordinator) (%s)" % WORKERS, Text("{{coordinator}} window", "{{coordinator}} 窗口")),
            ),
            "short",
        ),
        lines(
            Text("Store: round trips (99 %)", "存储：往返耗时（99 %）"),
            Text("Is the store slow? Milliseconds are normal; more makes heartbeats late and leases run out.",
                 "存储慢吗？毫秒级正常；更慢会使心跳延迟、租约到期。"),
            query(quantile(0.99, rate("store_op_duration_seconds_bucket"), "op"), "{{op}}"),
            "s", thresholds=((None, "green"), (1.0, "red")), limits=True, runbook="ElkCoordinatorStoreLatencyHigh",
        ),
        lines(
            Text("Store: errors", "存储：错误"),
            Text("Does the store answer? Each rise is a worker that got no answer.",
                 "存储有应答吗？每次上升表示有节点未得到应答。"),
            query("sum by (kind) (%s)" % rise("store_errors_total"), "{{kind}}"),
            "short", runbook="ElkCoordinatorStoreErrors",
        ),
        lines(
            Text("Heartbeats behind schedule (99 %)", "心跳延迟（99 %）"),
            Text("Are processes starved of CPU, or held up by a store that does not answer? Near the lease, work is lost.",
                 "进程缺 CPU，或被无应答的存储拖住了吗？接近租约时长时会丢失分区。"),
            query(quantile(0.99, rate("heartbeat_lateness_seconds_bucket"), "coordinator")),
            "s", runbook="ElkCoordinatorWorkerHeartbeatStale",
        ),
    ),
)  # fmt: skip

DASHBOARD = Dashboard(
    "fleet",
    Text("Elk / Fleet", "Elk / 集群"),
    Text("Is it moving, when is it done, what fails, who is slow?", "是否在推进、何时完成、什么失败、谁慢？"),
    COMMON,
    (NOW, MOVING, FAILING, SLOW),
)
