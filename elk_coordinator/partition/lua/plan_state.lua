-- include: stamp.lua
-- Where the plan stands, for the leader's next round.
--
-- KEYS   1 meta  2 planned  3 pending  4 suspects  5 delayed  6 leases
-- ARGV   1 the caller plans now (0/1): the mark of hungry workers is cleared, before anything is read; whoever is
--          hungry after this sets it again, with a hint
-- Reply  {version, last interval "hi:lo" or '', max partition id, pending, held, now_us}
-- Replay safe.  Cost a constant number of commands.

if ARGV[1] == '1' then redis.call('HDEL', KEYS[1], 'hungry') end
local meta = redis.call('HMGET', KEYS[1], 'planned_version', 'max_id')
local tail = redis.call('ZRANGE', KEYS[2], -1, -1)
return {meta[1] or '0', tail[1] or '', meta[2] or '0',
  redis.call('ZCARD', KEYS[3]) + redis.call('ZCARD', KEYS[4]) + redis.call('ZCARD', KEYS[5]),
  redis.call('ZCARD', KEYS[6]), text(now_us())}
