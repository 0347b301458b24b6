"""The leader's page: is leadership stable, does planning keep up, are there holes."""

from __future__ import annotations

from monitoring.grafana.expressions import COMMON, INTERVAL, ours, quantile, rate, rise
from monitoring.grafana.model import Dashboard, Panel, Row, Text, lines, queries, query, stat

BY = "max by (coordinator) (%s)"
#: Kept from the system before: neither coordinator nor worker_id; held to the chosen ones by their target.
ROUNDS = 'rate(elk_coordinator_partitions_assignment_duration_seconds_bucket{job=~"$job"}%s)' % INTERVAL
ROUNDS = "(%s and on (job, instance) %s)" % (ROUNDS, ours("build_info"))

STABLE = Row(
    Text("Is the leader stable?", "主节点稳定吗？"),
    (
        stat(
            Text("Leaders", "主节点数"),
            Text("Is there exactly one leader?", "是否恰有一个主节点？"),
            "count by (coordinator) (%s)" % ours("leader_term"), "short",
            thresholds=((None, "red"), (1.0, "green"), (2.0, "red")), absent="0", runbook="ElkCoordinatorNoLeader",
        ),
        stat(
            Text("Changes in this time range", "所选时间内的切换"),
            Text("How often did leadership move? A rolling restart moves it a few times; more is flapping.",
                 "主节点切换了多少次？滚动重启会有几次；更多则是抖动。"),
            "sum by (coordinator) (increase(%s[$__range]))" % ours("leader_changes_total"), "short", decimals=0,
            thresholds=((None, "green"), (5.0, "orange"), (20.0, "red")), runbook="ElkCoordinatorLeaderFlapping",
        ),
        stat(
            Text("Commands waiting", "待执行命令"),
            Text("Are commands of operators carried out? They wait for the leader; seconds are normal.",
                 "运维命令执行了吗？命令由主节点执行，等待几秒属正常。"),
            BY % ours("commands_queued"), "short", thresholds=((None, "green"), (10.0, "orange")),
        ),
        stat(
            Text("Holes in the plan", "规划空洞"),
            Text("Is anything left out? Ranges below the planned bound that belong to no partition.",
                 "有遗漏吗？规划上界以下不属于任何分区的区间数。"),
            BY % ours("gaps"), "short", thresholds=((None, "green"), (1.0, "red")), runbook="ElkCoordinatorDataGap",
        ),
        stat(
            Text("IDs in holes", "空洞中的 ID"),
            Text("How many IDs do the holes hold?", "空洞中共有多少 ID？"),
            BY % ours("gap_items"), "short", thresholds=((None, "green"), (1.0, "red")),
            runbook="ElkCoordinatorDataGap",
        ),
        stat(
            Text("Planner errors in this time range", "所选时间内规划器错误"),
            Text("Does the planner answer? Each is a round without new partitions; the log says why.",
                 "规划器有回答吗？每次错误表示一轮没有新分区；原因见日志。"),
            "sum by (coordinator) (increase(%s[$__range]))" % ours("planner_errors_total"), "short", decimals=0,
            thresholds=((None, "green"), (1.0, "orange")), runbook="ElkCoordinatorPlannerFailing",
        ),
        Panel(
            "state-timeline",
            Text("Who leads", "谁是主节点"),
            Text("Who led when? A gap is a time without a leader, an overlap longer than a scrape would be two.",
                 "何时由谁担任主节点？空白表示无主节点，重叠超过一次采集则是双主。"),
            query("max by (coordinator, instance) (%s > bool 0)" % ours("leader_term"), "{{coordinator}} {{instance}}"),
            "short", width=12, names={"1": (Text("leads", "主节点"), "green")}, runbook="ElkCoordinatorMultipleLeaders",
        ),
        lines(
            Text("Elections", "选举"),
            Text("Does anybody try to lead, and why not? Followers fail with `held` as a matter of course.",
                 "有节点竞选吗？为何失败？跟随者因 `held` 而失败属正常。"),
            queries(
                ("sum by (coordinator) (%s)" % rise("leader_election_attempts_total"),
                 Text("{{coordinator}} attempts", "{{coordinator}} 尝试")),
                ("sum by (reason) (%s)" % rise("leader_election_failures_total"),
                 Text("failed: {{reason}}", "失败：{{reason}}")),
                ("sum by (coordinator) (%s)" % rise("leader_changes_total"),
                 Text("{{coordinator}} won", "{{coordinator}} 当选")),
            ),
            "short", width=12, runbook="ElkCoordinatorLeaderFlapping",
        ),
    ),
)  # fmt: skip

PLANNING = Row(
    Text("Does planning keep up?", "规划跟得上吗？"),
    (
        lines(
            Text("Planned and completed up to", "规划与完成的位置"),
            Text("How far is it? Below the lower line everything is completed; the distance is in flight or waiting.",
                 "进度到哪里？下方的线以下全部完成；两线之间为处理中或等待中。"),
            queries(
                (BY % ours("planned_upper_bound"), Text("{{coordinator}} planned", "{{coordinator}} 已规划")),
                (BY % ours("completed_watermark"), Text("{{coordinator}} completed", "{{coordinator}} 已完成")),
            ),
            "none", width=12, minimum=None, runbook="ElkCoordinatorBacklogOld",
        ),
        lines(
            Text("Pending by priority", "各优先级的等待分区"),
            Text("Which work waits? Higher priorities are taken first; a low one may wait for ever behind them.",
                 "哪些在等待？高优先级先领取，低优先级可能一直等待。"),
            query("max by (coordinator, priority) (%s)" % ours("partitions_pending"), "{{coordinator}} {{priority}}"),
            "short", width=12, stacked=True, runbook="ElkCoordinatorBacklogOld",
        ),
        lines(
            Text("Partitions planned", "新规划的分区"),
            Text("Is new work found? Zero with workers idle: no new IDs, or a planner that fails.",
                 "有新的工作吗？节点空闲而此处为零：没有新 ID，或规划器失败。"),
            query("sum by (coordinator) (%s)" % rate("partitions_planned_total")), "ops",
        ),
        lines(
            Text("Length of allocation rounds", "分配轮次耗时"),
            Text("Is the planner slow? Rounds near the leader's lease make it step down.",
                 "规划器慢吗？接近主节点租约时长会使其退位。"),
            queries((quantile(0.5, ROUNDS), "50 %"), (quantile(0.99, ROUNDS), "99 %")),
            "s", runbook="ElkCoordinatorLeaderFlapping",
        ),
        lines(
            Text("Planner errors", "规划器错误"),
            Text("Does the planner raise, or answer nonsense?", "规划器抛出异常或给出无效回答了吗？"),
            query("sum by (coordinator) (%s)" % rise("planner_errors_total")), "short", runbook="ElkCoordinatorPlannerFailing",
        ),
    ),
)  # fmt: skip

KEEPING = Row(
    Text("Recovery and archive", "回收与归档"),
    (
        lines(
            Text("Partitions taken back", "回收的分区"),
            Text("Is the work of dead workers taken up again? A burst after a death is right; a trickle is not.",
                 "死亡节点的工作被接手了吗？死亡后的一次突增正常，持续不断则不正常。"),
            query("sum by (coordinator, reason) (%s)" % rise("reclaims_total"), "{{coordinator}} {{reason}}"),
            "short", runbook="ElkCoordinatorLeaseLostHigh",
        ),
        lines(
            Text("Archived partitions", "已归档分区"),
            Text("How many completed partitions are kept in detail? `archive_keep` bounds it.",
                 "保留了多少已完成分区的明细？由 `archive_keep` 限制。"),
            query(BY % ours("archive_partitions")), "short",
        ),
        lines(
            Text("Size of the archive", "归档大小"),
            Text("How much memory of the store does the archive take?", "归档占用存储多少内存？"),
            query(BY % ours("archive_bytes")), "bytes",
        ),
    ),
)  # fmt: skip

DASHBOARD = Dashboard(
    "leader",
    Text("Elk / Leader", "Elk / 主节点"),
    Text("Is leadership stable, does planning keep up, are there holes?", "主节点是否稳定、规划是否跟得上、有无空洞？"),
    COMMON,
    (STABLE, PLANNING, KEEPING),
)
