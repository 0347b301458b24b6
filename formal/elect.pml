/* The election and the plan: leader's lease, term, trust window, compare-and-set on the plan's version, loss of data.
 *
 * Conventions as in work.pml: times are ticks to go; s_ the store, w_ beliefs, n_ the network, g_ the checker's book.
 */
#define W 2
#ifndef ASKS
#define ASKS 2                  /* how often the first worker stands or renews */
#endif
#ifndef ASKS_1
#define ASKS_1 ASKS             /* and the other */
#endif
#ifndef DRIFT
#define DRIFT 0                 /* ticks that the first worker's clock may miss */
#endif
#ifndef PLANS
#define PLANS 1                 /* plans each worker computes */
#endif
#ifndef LOSSES
#define LOSSES 0
#endif
#define LEASE 2
#ifdef M_NO_MARGIN
#define TRUST LEASE
#else
#define TRUST (LEASE - 1)       /* config.lease_margin */
#endif
#ifdef M_CLIENT_CLOCK
#define EXPIRED 1               /* a client whose clock is ahead decides */
#else
#define EXPIRED 0
#endif
#define NOBODY 9

byte s_last;                    /* meta.last */
byte s_clock;                   /* the least stamp that the clock allows after a loss */
byte s_term;                    /* lock:leader token; stays when the lock runs out, 0 = given up */
byte s_deadline;
byte s_version;                 /* meta.planned_version */
byte s_by;                      /* meta.planned_by: the request that made it, worker * 8 + number + 1 */
byte s_high;                    /* planned: IDs 1..s_high */

byte w_floor[W];
byte w_term[W];                 /* Leadership: its term ... */
byte w_trust[W];                /* ... while this is not over */
byte w_asks[W];
byte w_sent[W];                 /* trust that the answer under way would get */
byte w_plans[W];
bool w_read[W];                 /* it has read the plan and computes */
byte w_version[W];              /* what it read */
byte w_high[W];
byte w_under[W];                /* the term it plans under, 0 = a public create */

byte n_ask[W];                  /* 1 stand on its way, 2 renewal on its way, 3 answered */
byte n_answer[W];               /* the term granted or renewed, 0 = no */
byte n_late_renew[W];           /* the term of a renewal that was given up and may still arrive, 0 = none */
bool n_late_stand[W];
byte n_release[W];              /* the term of a release on its way */
byte n_late_name[W];            /* a plan request that was given up; 0 = none */
byte n_late_version[W];
byte n_late_high[W];
byte n_late_under[W];

byte g_ever;
byte g_lease[W];
byte g_term;                    /* the last term granted */
byte g_planned[10];             /* how often each ID was planned, since the last loss */
byte g_lost;                    /* the highest stamp drawn before the last loss */
byte losses;
byte drift;
byte stamp, i;

inline draw(floor) {
	stamp = s_last + 1;
	if :: stamp < s_clock -> stamp = s_clock :: else fi;
#ifndef M_NO_FLOOR
	if :: stamp < floor + 1 -> stamp = floor + 1 :: else fi;
#endif
#ifdef CLOCK_SET_BACK
	assert(stamp > floor);  /* 5 */
#else
	assert(stamp > g_ever); /* 5: terms and versions */
#endif
	s_last = stamp;
	if :: stamp > g_ever -> g_ever = stamp :: else fi
}

/* 1 and 2: one unexpired lock; nobody trusts in a term while another's lock has not run out. */
inline check() {
	assert(!(g_lease[0] && g_lease[1]));
	assert(!(w_term[0] > g_lost && w_trust[0] && s_deadline && g_lease[1]));
	assert(!(w_term[1] > g_lost && w_trust[1] && s_deadline && g_lease[0]))
}

/* lock_acquire.lua */
inline stand(w, late) {
	n_answer[w] = 0;
	if
	:: s_deadline <= EXPIRED ->
		draw(w_floor[w]);
		assert(stamp > g_term || losses);
		s_term = stamp; s_deadline = LEASE; g_term = stamp; g_lease[w] = LEASE;
		if :: late :: else -> n_answer[w] = stamp fi;
		stamp = 0
	:: else
	fi;
	if :: late :: else -> n_ask[w] = 3 fi
}

/* lock_renew.lua: one that ran out is not revived. */
inline renew(w, term, late) {
#ifdef M_RENEW_EXPIRED
	if :: s_term == term ->
#else
	if :: s_term == term && s_deadline ->
#endif
		assert(s_deadline);     /* 4 */
		s_deadline = LEASE; g_lease[w] = LEASE;
		if :: late :: else -> n_answer[w] = term fi
	:: else -> skip
	fi;
	if :: late :: else -> n_ask[w] = 3 fi
}

/* plan.lua: IDs high + 1, as one partition. */
inline plan(w, name, version, high, under) {
#ifdef M_NO_TERM
	if :: true ->
#else
	if :: under == 0 || s_term == under ->
#endif
		if
#ifdef M_NO_VERSION
		:: true ->
#else
		:: s_version == version ->
#endif
			assert(under == 0 || under == g_term);  /* 4: no plan under a term that is over */
			draw(w_floor[w]);
			s_version = stamp; s_by = name; s_high = high + 1; stamp = 0;
			g_planned[high + 1]++;
			assert(g_planned[high + 1] == 1);       /* 6 */
			assert(high == 0 || g_planned[high] == 1)       /* 7: none left out */
		:: else -> skip /* somebody else planned; or it is the same request again: its answer again (planned_by) */
		fi
	:: else -> skip
	fi
}

inline one_down(x) { if :: x > 0 -> x-- :: else fi }

inline tick(slow) {
	one_down(s_deadline);
	i = 0;
	do
	:: i < W ->
		one_down(g_lease[i]);
		if :: i != slow -> one_down(w_trust[i]); one_down(w_sent[i]) :: else fi;
		i++
	:: else -> break
	od;
	i = 0
}

active [W] proctype worker() {
	byte w = _pid;
end:	do
	/* Election._stand and ._lead */
	:: d_step { n_ask[w] == 0 && w_term[w] == 0 && w_asks[w] < (w == 0 -> ASKS : ASKS_1) -> w_asks[w]++; n_ask[w] = 1; w_sent[w] = TRUST }
	:: d_step { n_ask[w] == 0 && w_term[w] && w_trust[w] && w_asks[w] < (w == 0 -> ASKS : ASKS_1) -> w_asks[w]++; n_ask[w] = 2; w_sent[w] = TRUST }
	:: d_step { n_ask[w] == 1 -> stand(w, false); check() }
	:: d_step { n_ask[w] == 2 -> renew(w, w_term[w], false); check() }
	/* No answer in time; the request may arrive for all that. */
	:: d_step { n_ask[w] == 1 -> n_late_stand[w] = true; n_ask[w] = 0; w_sent[w] = 0 }
	:: d_step { n_ask[w] == 2 -> n_late_renew[w] = w_term[w]; n_ask[w] = 0; w_sent[w] = 0 }
	:: d_step { n_ask[w] == 3 -> n_ask[w] = 0; n_answer[w] = 0; w_sent[w] = 0 }
	:: d_step { n_late_stand[w] -> stand(w, true); n_late_stand[w] = false; check() }
	:: d_step { n_late_renew[w] -> renew(w, n_late_renew[w], true); n_late_renew[w] = 0; check() }
	/* Leadership.grant and .extend: from before the send; one that ended is not revived. */
	:: d_step { n_ask[w] == 3 ->
		if
		:: n_answer[w] && w_term[w] == 0 ->
			w_term[w] = n_answer[w];
			if :: n_answer[w] > w_floor[w] -> w_floor[w] = n_answer[w] :: else fi;
#ifdef M_TRUST_AFTER_REPLY
			w_trust[w] = TRUST
#else
			w_trust[w] = w_sent[w]
#endif
		:: n_answer[w] && w_term[w] == n_answer[w] && w_trust[w] ->
#ifdef M_TRUST_AFTER_REPLY
			w_trust[w] = TRUST
#else
			w_trust[w] = w_sent[w]
#endif
		:: n_answer[w] == 0 -> w_term[w] = 0; w_trust[w] = 0
		:: else
		fi;
		n_ask[w] = 0; n_answer[w] = 0; w_sent[w] = 0; check() }
	/* step_down: stop believing first, then give it up. */
	:: d_step { w_term[w] && n_ask[w] == 0 -> n_release[w] = w_term[w]; w_term[w] = 0; w_trust[w] = 0 }
	/* lock_release.lua */
	:: d_step { n_release[w] ->
		if :: s_term == n_release[w] -> s_term = 0; s_deadline = 0; g_lease[w] = 0 :: else fi;
		n_release[w] = 0; check() }
	/* Allocator: read the plan, compute, send. It may freeze anywhere between. A public create has no term. */
	:: d_step { !w_read[w] && w_plans[w] < PLANS && w_term[w] && w_trust[w] ->
		w_read[w] = true; w_plans[w]++; w_under[w] = w_term[w]; w_version[w] = s_version; w_high[w] = s_high }
	:: d_step { !w_read[w] && w_plans[w] < PLANS && w == 1 ->
		w_read[w] = true; w_plans[w]++; w_under[w] = 0; w_version[w] = s_version; w_high[w] = s_high }
	:: d_step { w_read[w] && n_late_name[w] == 0 ->         /* it, or a first attempt of it, stays on its way */
		n_late_name[w] = w * 8 + w_plans[w] + 1;
		n_late_version[w] = w_version[w]; n_late_high[w] = w_high[w]; n_late_under[w] = w_under[w] }
	:: d_step { w_read[w] ->
		plan(w, w * 8 + w_plans[w] + 1, w_version[w], w_high[w], w_under[w]);
		w_read[w] = false; w_version[w] = 0; w_high[w] = 0; w_under[w] = 0; check() }
	:: d_step { n_late_name[w] ->
		plan(w, n_late_name[w], n_late_version[w], n_late_high[w], n_late_under[w]);
		n_late_name[w] = 0; n_late_version[w] = 0; n_late_high[w] = 0; n_late_under[w] = 0; check() }
	od
}

active proctype surroundings() {
end:	do
	:: d_step { tick(NOBODY); check() }
	:: d_step { drift < DRIFT -> drift++; tick(0); check() }
#if LOSSES > 0
	:: d_step { losses < LOSSES ->
		losses++; g_lost = g_ever;
		s_last = 0; s_term = 0; s_deadline = 0; s_version = 0; s_by = 0; s_high = 0;
		g_lease[0] = 0; g_lease[1] = 0;
#ifdef CLOCK_SET_BACK
		s_clock = 0;
#else
		s_clock = g_ever + 1;
#endif
		i = 0;
		do
		:: i < 10 -> g_planned[i] = 0; i++
		:: else -> break
		od;
		i = 0 }
#endif
	od
}
