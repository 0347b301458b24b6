-- The counts. They are the sizes of the indexes that every move changes together with the record: nothing to drift.
-- Done are the recent ones and those in chunks of the archive, whose number each swap of a chunk changes with it.
--
-- KEYS   1 meta  2 pending  3 suspects  4 delayed  5 leases  6 claimed  7 failed  8 done  9 planned  10 corrupt
-- ARGV   none
-- Reply  {pending, held, claimed, done, failed, max partition id, last interval or '', pruned, corrupt, paused}
-- Cost   a constant number of commands, each O(1) or O(log n); reads only.

local meta = redis.call('HMGET', KEYS[1], 'max_id', 'pruned', 'paused', 'archived')
local tail = redis.call('ZRANGE', KEYS[9], -1, -1)
return {
  redis.call('ZCARD', KEYS[2]) + redis.call('ZCARD', KEYS[3]) + redis.call('ZCARD', KEYS[4]),
  redis.call('ZCARD', KEYS[5]), redis.call('SCARD', KEYS[6]), redis.call('HLEN', KEYS[8]) + tonumber(meta[4] or '0'),
  redis.call('ZCARD', KEYS[7]), meta[1] or '0', tail[1] or '', meta[2] or '0', redis.call('SCARD', KEYS[10]),
  meta[3] and 1 or 0,
}
