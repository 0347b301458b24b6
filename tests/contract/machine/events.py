"""What happens in random lives: so that a test notices when a rule no longer comes to what it is there for."""

from __future__ import annotations

#: In most lives: any twenty see all of these.
COMMON = frozenset(["granted running", "COMPLETED -> completed", "reclaimed -> pending"])
#: What takes several things to come together.
RARE = frozenset([
    "pruned", "interrupted: archive by complete", "gaps: skipped rows planned", "granted running suspect",
    "beat: hears a wish",
])  # fmt: skip
#: SIMPLE sees its stamps in the document that it reads: nobody has to remember any.
ONLY_HASH = frozenset(["somebody remembers the stamps of lost data"])
#: Every kind; each with its own name in ``Life.seen``.
EVENTS = COMMON | RARE | ONLY_HASH | frozenset([
    "acquired", "create: conflict", "gaps: LeaseLost",
    "CANCELLED -> failed", "CANCELLED -> refused", "COMPLETED -> refused", "ERROR -> failed", "ERROR -> pending",
    "ERROR -> refused", "LOST -> failed", "LOST -> pending", "LOST -> refused", "PERMANENT -> failed",
    "PERMANENT -> refused", "RELEASED -> pending", "RELEASED -> refused", "acquired by force", "archived",
    "archiving of an old term", "beat too late", "beat: gone", "beat: held", "checkpoint: False", "checkpoint: True",
    "clock set back", "commands forgotten", "create: fine", "create: nothing new", "data lost",
    "deleted from the archive", "gaps: IllegalTransition", "gaps: VersionConflict", "gaps: filled", "granted claimed",
    "interrupted: archive by archive", "interrupted: archive by claim", "interrupted: archive by create",
    "interrupted: archive by delete", "interrupted: archive by move", "interrupted: delete by archive",
    "interrupted: delete by claim", "interrupted: delete by complete", "interrupted: delete by create",
    "interrupted: delete by delete", "interrupted: delete by move", "plan of an old term", "plan of an old version",
    "planned", "pruning of an old term", "reclaimed -> failed", "release: done", "release: refused",
    "step of an old term", "step of cancel", "step of create", "step of delete", "step of pause", "step of release",
    "step of resume", "step of retry_failed", "step of set_priority", "step repeated",
    "step that deletes from the archive", "submitted again", "turn repeated", "turn too late", "worker replaced",
])  # fmt: skip
