"""What was promised to whom: attempts succeed, work does not wait, it ends in time, the store answers."""

from __future__ import annotations

from monitoring.grafana.expressions import CHOSEN, COMMON, ours, outcome_ratio
from monitoring.grafana.model import Dashboard, Row, Text, Variable, lines, queries, query, stat

FAILED = "error|permanent"
BY = "max by (coordinator) (%s)"
#: Errors allowed, as a part of one.
BUDGET = "(1 - $objective)"
OBJECTIVE = Variable(
    "objective",
    Text("Objective: attempts that succeed", "目标：尝试成功率"),
    choices=(("99 %", "0.99"), ("95 %", "0.95"), ("99.5 %", "0.995"), ("99.9 %", "0.999")),
)
MAX_AGE = Variable(
    "max_age",
    Text("Objective: longest wait", "目标：最长等待"),
    choices=(("1 h", "3600"), ("5 min", "300"), ("15 min", "900"), ("6 h", "21600"), ("24 h", "86400")),
)
AGE = "(time() - min by (coordinator) (%s))" % ours("oldest_pending_timestamp_seconds")

SUCCESS = Row(
    Text("Do attempts succeed?", "尝试成功吗？"),
    (
        stat(
            Text("Success ratio in this time range", "所选时间内的成功率"),
            Text("Which part of the attempts that ended succeeded? Stops and lost leases do not count.",
                 "结束的尝试中成功的比例？停止与租约丢失不计。"),
            "1 - %s" % outcome_ratio(FAILED, "$__range"), "percentunit", decimals=2, maximum=1.0, width=6,
            thresholds=((None, "red"), (0.95, "orange"), (0.99, "green")), runbook="ElkCoordinatorErrorBudgetBurn",
        ),
        stat(
            Text("Error budget left in this time range", "所选时间内剩余错误预算"),
            Text("May we still take risks? Below 0 the objective is missed; choose 30 days for a month's budget.",
                 "还有余地吗？低于 0 表示目标未达成；选 30 天查看月度预算。"),
            "1 - %s / %s" % (outcome_ratio(FAILED, "$__range"), BUDGET), "percentunit", decimals=1, maximum=1.0,
            minimum=None, width=6, thresholds=((None, "red"), (0.0, "orange"), (0.25, "green")),
            runbook="ElkCoordinatorErrorBudgetBurn",
        ),
        stat(
            Text("Failed for good", "最终失败"),
            Text("How many partitions rest as failed now?", "目前有多少分区处于失败状态？"),
            BY % ours("partitions", 'status="failed"'), "short", width=6,
            thresholds=((None, "green"), (1.0, "red")), runbook="ElkCoordinatorPartitionsFailed",
        ),
        stat(
            Text("Attempts in this time range", "所选时间内的尝试数"),
            Text("How much do the ratios rest on? Few attempts make them jump.", "比率基于多少次尝试？过少则会跳动。"),
            'sum by (coordinator) (increase(elk_coordinator_partition_attempts_total{%s, outcome=~"completed|%s"}'
            "[$__range]))" % (CHOSEN, FAILED), "short", decimals=0, width=6,
        ),
        lines(
            Text("Burn rate", "预算消耗速率"),
            Text("How fast is the budget spent? 1 spends it exactly; 14.4 over 1 h and 5 min spends a month's in two days.",
                 "预算消耗多快？1 为恰好用完；1 小时与 5 分钟同时达 14.4 表示两天耗尽月度预算。"),
            queries(*(
                ("%s / %s" % (outcome_ratio(FAILED, window), BUDGET), "{{coordinator}} " + window)
                for window in ("5m", "1h", "6h")
            )),
            "none", width=12, thresholds=((None, "green"), (1.0, "orange"), (14.4, "red")), limits=True,
            runbook="ElkCoordinatorErrorBudgetBurn",
        ),
        lines(
            Text("Failure ratio and what is allowed", "失败率与允许值"),
            Text("When was the objective missed? Above the line of what is allowed.", "何时未达标？高于允许值的时段。"),
            queries((outcome_ratio(FAILED, "$__rate_interval"), "{{coordinator}}"),
                    ("vector(%s)" % BUDGET, Text("allowed", "允许值"))),
            "percentunit", width=12, runbook="ElkCoordinatorFailureRatioHigh",
        ),
    ),
)  # fmt: skip

FRESH = Row(
    Text("Does work wait too long, and will it end in time?", "等待是否过久？能否按时完成？"),
    (
        lines(
            Text("Age of the oldest pending partition", "最久等待分区的时长"),
            Text("Does anything wait longer than promised?", "有分区等待超过承诺吗？"),
            queries((AGE, "{{coordinator}}"), ("vector($max_age)", Text("allowed", "允许值"))),
            "s", runbook="ElkCoordinatorBacklogOld",
        ),
        lines(
            Text("Time with nothing too old", "无超时等待的时间占比"),
            Text("In which part of the last hour did nothing wait longer than promised?",
                 "过去一小时内，没有分区等待超过承诺的时间占比？"),
            query("avg_over_time((%s <= bool $max_age)[1h:1m])" % AGE), "percentunit", maximum=1.0,
            runbook="ElkCoordinatorBacklogOld",
        ),
        lines(
            Text("Time left", "剩余时间"),
            Text("When is it done? It should fall as fast as time passes; level or rising, it moves away.",
                 "何时完成？应与时间同步下降；持平或上升说明在远离。"),
            query("clamp_min(%s - time(), 0)" % (BY % ours("estimated_completion_timestamp_seconds"))), "s",
            runbook="ElkCoordinatorWillMissDeadline",
        ),
    ),
)  # fmt: skip

RELIES = Row(
    Text("What it rests on", "所依赖的条件"),
    (
        lines(
            Text("Workers that reach the store", "能访问存储的节点占比"),
            Text("Could the workers work? 100 % unless the store or the network fails.",
                 "节点能工作吗？除非存储或网络故障，应为 100 %。"),
            query("avg by (coordinator) (%s)" % ours("store_up")), "percentunit", maximum=1.0,
            runbook="ElkCoordinatorStoreDown",
        ),
        lines(
            Text("A leader is there", "有主节点"),
            Text("Which part of the time was there a leader? Takeovers last at most a leader's lease.",
                 "有主节点的时间占比？接管最多持续一个主节点租约。"),
            query(
                "(count by (coordinator) (%s) > bool 0) or (0 * count by (coordinator) (%s))"
                % (ours("leader_term"), ours("build_info"))
            ),
            "percentunit", maximum=1.0, runbook="ElkCoordinatorNoLeader",
        ),
        lines(
            Text("Since the last success", "距最近一次成功"),
            Text("Did work stop while there was some? A rising line with a backlog is an outage.",
                 "有积压时工作停了吗？有积压且持续上升即为故障。"),
            query("time() - %s" % (BY % (ours("last_success_timestamp_seconds") + " > 0"))), "s",
            runbook="ElkCoordinatorStalled",
        ),
    ),
)  # fmt: skip

DASHBOARD = Dashboard(
    "slo",
    Text("Elk / SLO", "Elk / 服务目标"),
    Text("Do attempts succeed, does work wait too long, will it end in time?", "尝试成功吗、等待过久吗、能按时完成吗？"),
    (*COMMON, OBJECTIVE, MAX_AGE),
    (SUCCESS, FRESH, RELIES),
    since="now-24h",
)
