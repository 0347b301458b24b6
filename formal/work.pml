/* Leases, fencing tokens, reports, renewals, sweep, lost replies, late requests, frozen workers, loss of the store's data.
 *
 * One process draws one atomic step after the other, as the server runs one script after the other. A worker is frozen as
 * long as no step of its is drawn while the clock ticks. Times are ticks still to go, 0 = over, so that the clock itself
 * is no part of the state. Names of variables: s_ the store, w_ what a worker believes, g_ only known to the checker.
 *
 * Every "#ifdef M_..." removes a guard; run.py expects that each is found out. README.rst says what is modelled and what not.
 */
#ifndef W
#define W 2                     /* workers, each with a window of one task */
#endif
#ifndef P
#define P 1                     /* partitions */
#endif
#ifndef TURNS
#define TURNS 2                 /* turns of the first worker */
#endif
#ifndef TURNS_1
#define TURNS_1 TURNS           /* turns of each other worker */
#endif
#ifndef BEATS
#define BEATS 1                 /* heartbeats of each worker */
#endif
#ifndef LOSSES
#define LOSSES 0                /* how often the store loses everything */
#endif
#ifndef DRIFT
#define DRIFT 1                 /* ticks that the first worker's clock may miss: what the margin is for */
#endif
#ifndef LEASE
#define LEASE 3
#endif
#ifdef M_NO_MARGIN
#define TRUST LEASE
#else
#define TRUST (LEASE - 1)       /* config.lease_margin */
#endif

#ifdef M_CLIENT_CLOCK
#define EXPIRED 2               /* a client whose clock is ahead by two ticks decides */
#else
#define EXPIRED 0
#endif

#ifdef CLOCK_SET_BACK
#define fenced(x) true          /* data and clock lost together: a token may come again, nothing but 5 is promised */
#else
#define fenced(x) assert(x)
#endif

#define PENDING 0
#define RUNNING 1
#define DONE    2
#define NOBODY  9
#define MANY    20              /* stamps: never reached, but by mutants that grant without end */

/* The store: state, leases and streams of store/keys.py. */
byte s_last;                    /* meta.last: the last stamp */
byte s_clock;                   /* the least stamp that the server's clock allows after a loss of data */
byte s_status[P];
byte s_token[P];
byte s_deadline[P];             /* score in leases; stays 0 once it ran out, until a sweep */
byte s_seq[W];                  /* streams: the last turn ... */
bool s_code[W];                 /* ... its answer to the report ... */
byte s_grant[W];                /* ... the token it granted, 0 = none ... */
byte s_granted[W];              /* ... and of which partition */
byte s_beat[W];

/* What a worker knows: worker/context.py, worker/claimer.py, worker/heartbeat.py. */
byte w_floor[W];                /* requests.Memory: the highest stamp seen */
byte w_seq[W];
byte w_task[W];                 /* token of the task, 0 = none */
byte w_part[W];
byte w_trust[W];                /* Task._trusted_until */
bool w_ended[W];                /* the processor returned; its report waits */
bool w_completes[W];            /* ... with Outcome.COMPLETED, else RELEASED */
byte w_sent[W];                 /* trust that a grant of the turn under way would get: runs since the *first* send */
byte w_beats[W];
byte w_beat_sent[W];

/* The network. A request waited for is on its way (1) or answered (2); one given up may still arrive, whenever. */
byte n_turn[W];
bool n_code[W];
byte n_grant[W];
byte n_granted[W];
byte n_late_seq[W];             /* 0 = none */
byte n_late_task[W];
byte n_late_part[W];
bool n_late_done[W];
byte n_beat[W];
bool n_held[W];
byte n_late_beat[W];
byte n_late_beat_task[W];
byte n_late_beat_part[W];

/* The checker's own book. */
byte g_ever;                    /* the highest stamp ever drawn, over all losses */
byte g_top[P];                  /* the last token granted */
byte g_lease[W];                /* what is left of the lease as it was granted, whatever the store thinks now */
byte g_part[W];
byte g_token[W];
byte g_done[P];                 /* completions accepted */
byte g_lost;                    /* the highest stamp drawn before the last loss of data */
byte losses;
byte drift;
bool calm;

byte turns;
byte stamp, i, j, t;            /* scratch; zero between steps */
bool ok;

/* store/lua/stamp.lua next_stamp: above the last, the clock and the caller's floor. */
inline draw(floor) {
	stamp = s_last + 1;
	if :: stamp < s_clock -> stamp = s_clock :: else fi;
#ifndef M_NO_FLOOR
	if :: stamp < floor + 1 -> stamp = floor + 1 :: else fi;
#endif
#ifdef CLOCK_SET_BACK
	assert(stamp > floor);  /* 5, all that is promised when data and clock are lost together */
#else
	assert(stamp > g_ever); /* 5 */
#endif
	s_last = stamp;
	if :: stamp > g_ever -> g_ever = stamp :: else fi
}

/* After every step. 2: nobody believes in a lease while another has one that has not run out. */
inline check() {
	i = 0;
	do
	:: i < W ->
		if
		:: w_task[i] && !w_ended[i] && w_trust[i] && w_task[i] > g_lost && s_status[w_part[i]] == RUNNING ->
			fenced(s_token[w_part[i]] == w_task[i] || s_deadline[w_part[i]] == 0)
		:: else
		fi;
		i++
	:: else -> break
	od;
	i = 0
}

/* work.lua: the turn of worker w. Reports, then claims. late: nobody waits for the answer. */
inline turn(w, seq, task, part, completes, late) {
	ok = false; t = 0; j = 0;
	if
#ifndef M_NO_SEQUENCE
	:: s_seq[w] > seq -> skip                               /* {0} stale */
	:: s_seq[w] == seq ->                                   /* the first answer again; grants while still held */
#ifdef M_NO_REPLAY
		skip
#else
		ok = s_code[w];
		if
		:: s_grant[w] && s_status[s_granted[w]] == RUNNING && s_token[s_granted[w]] == s_grant[w] ->
			t = s_grant[w]; j = s_granted[w]
		:: else
		fi
#endif
	:: s_seq[w] < seq ->
#else
	:: true ->
#endif
		/* The report: the token decides, not the deadline. */
		if
#ifdef M_NO_TOKEN_REPORT
		:: task && s_status[part] == RUNNING ->
#else
		:: task && s_status[part] == RUNNING && s_token[part] == task ->
#endif
			fenced(task == g_top[part]);            /* 4 */
			ok = true;
			if
			:: completes -> s_status[part] = DONE; g_done[part]++; fenced(g_done[part] == 1)        /* 3 */
			:: else -> s_status[part] = PENDING
			fi;
			s_deadline[part] = 0;
			if :: g_token[w] == task -> g_lease[w] = 0; g_token[w] = 0; g_part[w] = 0 :: else fi
		:: else
		fi;
		/* The claim: the head of pending. */
		do
		:: j < P && s_status[j] != PENDING -> j++
		:: else -> break
		od;
		if
		:: j < P ->
			draw(w_floor[w]);
			t = stamp; stamp = 0;
			i = 0;
			do                                      /* 1 and 8 */
			:: i < W ->
				fenced(!(g_lease[i] && g_part[i] == j));
				i++
			:: else -> break
			od;
			i = 0;
			/* 8: what the worker has in the store is what it asked for: one. (After a loss it may not know.) */
			fenced(g_lease[w] == 0);
			s_status[j] = RUNNING; s_token[j] = t; s_deadline[j] = LEASE; g_top[j] = t;
			g_lease[w] = LEASE; g_part[w] = j; g_token[w] = t
		:: else -> j = 0
		fi;
		s_seq[w] = seq; s_code[w] = ok; s_grant[w] = t; s_granted[w] = j
	fi;
	if
	:: late
	:: else -> n_turn[w] = 2; n_code[w] = ok; n_grant[w] = t; n_granted[w] = j
	fi;
	ok = false; t = 0; j = 0
}

/* heartbeat.lua: renews what is held under this token and has not run out. */
inline beat(w, seq, task, part, late) {
	ok = false;
	if
	:: s_beat[w] > seq                                      /* {0} stale */
	:: else ->
		s_beat[w] = seq;
		if
#ifdef M_NO_TOKEN_RENEW
		:: s_status[part] == RUNNING && s_deadline[part] ->
#elif defined M_RENEW_EXPIRED
		:: s_status[part] == RUNNING && s_token[part] == task ->
#else
		:: s_status[part] == RUNNING && s_token[part] == task && s_deadline[part] ->
#endif
			fenced(task == g_top[part]);            /* 4 */
			fenced(s_deadline[part] > 0);           /* 4: one that ran out is not revived */
			ok = true;
			s_deadline[part] = LEASE;
			if :: g_token[w] == task -> g_lease[w] = LEASE :: else fi
		:: else
		fi
	fi;
	if :: late :: else -> n_beat[w] = 2; n_held[w] = ok fi;
	ok = false
}

inline forget_task(w) {
	w_task[w] = 0; w_part[w] = 0; w_trust[w] = 0; w_ended[w] = false; w_completes[w] = false
}

inline one_down(x) { if :: x > 0 -> x-- :: else fi }

/* One of the workers, and the network between it and the store. */
active [W] proctype worker() provided (!calm) {
	byte w = _pid;
end:	do
	/* Claimer._request: a turn for the next task, with the report of the last. Trust counts from here. */
	:: d_step { n_turn[w] == 0 && w_seq[w] < (w == 0 -> TURNS : TURNS_1) && (w_task[w] == 0 || w_ended[w]) ->
		w_seq[w]++; n_turn[w] = 1; w_sent[w] = TRUST }
	/* The server runs it. */
	:: d_step { n_turn[w] == 1 && g_ever < MANY ->
		turn(w, w_seq[w], w_task[w], w_part[w], w_completes[w], false); check() }
	/* No answer in time: the same request again, equal sequence number. The first is lost, or still on its way. */
	:: d_step { n_turn[w] == 2 -> n_turn[w] = 1; n_code[w] = false; n_grant[w] = 0; n_granted[w] = 0 }
	:: d_step { n_turn[w] == 1 && n_late_seq[w] != w_seq[w] ->
		n_late_seq[w] = w_seq[w]; n_late_task[w] = w_task[w]; n_late_part[w] = w_part[w]; n_late_done[w] = w_completes[w] }
	/* A request that was given up arrives. */
	:: d_step { n_late_seq[w] && g_ever < MANY ->
		turn(w, n_late_seq[w], n_late_task[w], n_late_part[w], n_late_done[w], true);
		n_late_seq[w] = 0; n_late_task[w] = 0; n_late_part[w] = 0; n_late_done[w] = false; check() }
	/* Claimer._settle and _take: what comes too late to be believed is given back by its token. */
	:: d_step { n_turn[w] == 2 ->
		forget_task(w);
		if
		:: n_grant[w] ->
			w_task[w] = n_grant[w]; w_part[w] = n_granted[w];
			if :: n_grant[w] > w_floor[w] -> w_floor[w] = n_grant[w] :: else fi;
#ifdef M_TRUST_AFTER_REPLY
			w_trust[w] = TRUST;
#else
			w_trust[w] = w_sent[w];
#endif
			w_ended[w] = (w_trust[w] == 0)
		:: else
		fi;
		n_turn[w] = 0; w_sent[w] = 0; n_code[w] = false; n_grant[w] = 0; n_granted[w] = 0; check() }
	/* The processor returns. It may not have looked at ctx.cancelled: then it reports a completion, late as it is. */
	:: d_step { w_task[w] && !w_ended[w] -> w_ended[w] = true; w_completes[w] = true }
	:: d_step { w_task[w] && !w_ended[w] -> w_ended[w] = true }
	/* Heartbeat._beat: every attempt is a request of its own, stamped anew. */
	:: d_step { n_beat[w] == 0 && w_task[w] && w_beats[w] < BEATS && w_trust[w] ->
		w_beats[w]++; n_beat[w] = 1; w_beat_sent[w] = TRUST;
		n_late_beat[w] = w_beats[w]; n_late_beat_task[w] = w_task[w]; n_late_beat_part[w] = w_part[w] }
	:: d_step { n_beat[w] == 1 && n_late_beat[w] == w_beats[w] ->
		beat(w, n_late_beat[w], n_late_beat_task[w], n_late_beat_part[w], false);
		check() }
	/* No answer in time; the request may still arrive (n_late_beat stays). */
	:: d_step { n_beat[w] -> if :: n_beat[w] == 2 -> n_late_beat[w] = 0; n_late_beat_task[w] = 0; n_late_beat_part[w] = 0 :: else fi;
		n_beat[w] = 0; n_held[w] = false; w_beat_sent[w] = 0 }
	:: d_step { n_beat[w] == 0 && n_late_beat[w] ->
		beat(w, n_late_beat[w], n_late_beat_task[w], n_late_beat_part[w], true);
		n_late_beat[w] = 0; n_late_beat_task[w] = 0; n_late_beat_part[w] = 0; check() }
	/* Task.trust: a lease given up is never revived. */
	:: d_step { n_beat[w] == 2 ->
		if
		:: w_task[w] && w_task[w] == n_late_beat_task[w] ->
			if
			:: !n_held[w] -> w_trust[w] = 0
			:: n_held[w] && w_trust[w] ->
#ifdef M_TRUST_AFTER_REPLY
				w_trust[w] = TRUST
#else
				if :: w_beat_sent[w] > w_trust[w] -> w_trust[w] = w_beat_sent[w] :: else fi
#endif
			:: else
			fi
		:: else
		fi;
		n_beat[w] = 0; n_held[w] = false; w_beat_sent[w] = 0;
		n_late_beat[w] = 0; n_late_beat_task[w] = 0; n_late_beat_part[w] = 0; check() }
	od
}

/* sweep.lua, by the leader or a worker: the server's clock alone decides. */
inline sweep(p) {
#ifdef M_SWEEP_FORGETS
	s_status[p] = NOBODY;
#else
	s_status[p] = PENDING;
#endif
	s_deadline[p] = 0
}

inline worker_clock(w) { one_down(w_trust[w]); one_down(w_sent[w]); one_down(w_beat_sent[w]) }

inline tick(slow) {
	i = 0;
	do
	:: i < P -> one_down(s_deadline[i]); i++
	:: else -> break
	od;
	i = 0;
	do
	:: i < W ->
		one_down(g_lease[i]);
		if :: i != slow -> worker_clock(i) :: else fi;
		i++
	:: else -> break
	od;
	i = 0
}

/* All to zero: what was looked at ends in one and the same state. */
inline wipe() {
	i = 0;
	do
	:: i < W ->
		s_seq[i] = 0; s_code[i] = false; s_grant[i] = 0; s_granted[i] = 0; s_beat[i] = 0; w_floor[i] = 0; w_seq[i] = 0;
		w_task[i] = 0; w_part[i] = 0; w_trust[i] = 0; w_ended[i] = false; w_completes[i] = false; w_sent[i] = 0;
		w_beats[i] = 0; w_beat_sent[i] = 0; n_turn[i] = 0; n_code[i] = false; n_grant[i] = 0; n_granted[i] = 0;
		n_late_seq[i] = 0; n_late_task[i] = 0; n_late_part[i] = 0; n_late_done[i] = false; n_beat[i] = 0;
		n_held[i] = false; n_late_beat[i] = 0; n_late_beat_task[i] = 0; n_late_beat_part[i] = 0; g_lease[i] = 0;
		g_part[i] = 0; g_token[i] = 0; i++
	:: else -> break
	od;
	i = 0;
	do
	:: i < P ->
		s_status[i] = 0; s_token[i] = 0; s_deadline[i] = 0; g_top[i] = 0; g_done[i] = 0; i++
	:: else -> break
	od;
	s_last = 0; s_clock = 0; g_ever = 0; g_lost = 0; losses = 0; drift = 0; turns = 0; ok = false; i = 0
}

/* The clock, whoever sweeps, late checkpoints, and losses of data. */
active proctype surroundings() provided (!calm) {
end:	do
	:: d_step { s_status[0] == RUNNING && s_deadline[0] <= EXPIRED -> sweep(0); check() }
#if P > 1
	:: d_step { s_status[1] == RUNNING && s_deadline[1] <= EXPIRED -> sweep(1); check() }
#endif
	:: d_step { tick(NOBODY); check() }
	:: d_step { drift < DRIFT -> drift++; tick(0); check() }
	/* checkpoint.lua: one under any token ever granted arrives, whenever. It leaves nothing that others look at. */
	:: d_step { s_status[0] == RUNNING && g_top[0] ->
		t = 1;
		do
		:: t <= g_ever ->
			if
#ifdef M_NO_TOKEN_CHECKPOINT
			:: s_deadline[0] ->
#else
			:: s_deadline[0] && s_token[0] == t ->
#endif
				fenced(t == g_top[0])                /* 4 */
			:: else
			fi;
			t++
		:: else -> break
		od;
		t = 0 }
#if LOSSES > 0
	/* FLUSHALL, or a failover to a replica that had nothing. The leader plans the same partitions again (plan.lua). */
	:: d_step { losses < LOSSES ->
		losses++; g_lost = g_ever;
		s_last = 0;
#ifdef CLOCK_SET_BACK
		s_clock = 0;
#else
		s_clock = g_ever + 1;
#endif
		i = 0;
		do
		:: i < P -> s_status[i] = PENDING; s_token[i] = 0; s_deadline[i] = 0; g_done[i] = 0; i++
		:: else -> break
		od;
		i = 0;
		do
		:: i < W ->
			s_seq[i] = 0; s_code[i] = false; s_grant[i] = 0; s_granted[i] = 0; s_beat[i] = 0;
			g_lease[i] = 0; g_token[i] = 0; g_part[i] = 0;
			i++
		:: else -> break
		od;
		i = 0 }
#endif
	/* 7: from every state: the faults end, all workers but the first are gone, and still everything gets done. */
	:: d_step { !calm -> calm = true;
		tick(NOBODY); tick(NOBODY); tick(NOBODY);
		i = 0;
		do
		:: i < P -> if :: s_status[i] == RUNNING && s_deadline[i] == 0 -> sweep(i) :: else fi; i++
		:: else -> break
		od;
		i = 0;
		turns = 0;
		do
		:: turns < P + 2 ->
			if :: turns > 0 || n_turn[0] == 0 -> w_seq[0]++ :: else fi;
			turn(0, w_seq[0], w_task[0], w_part[0], true, false);
			w_task[0] = n_grant[0]; w_part[0] = n_granted[0];
			turns++
		:: else -> break
		od;
		turns = 0;
		i = 0;
		do
		:: i < P -> fenced(s_status[i] == DONE && g_done[i] == 1); i++
		:: else -> break
		od;
		i = 0;
		wipe() }
	od
}
