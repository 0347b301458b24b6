-- include: stamp.lua
-- Whether anything is left to do, and what the leader's last full round found.
--
-- KEYS   1 meta  2 pending  3 suspects  4 delayed  5 leases
-- ARGV   none
-- Reply  {now_us, partitions neither completed nor failed, planned version, exhausted_at (us), exhausted_version}
-- Cost   a constant number of commands; reads only.

local meta = redis.call('HMGET', KEYS[1], 'planned_version', 'exhausted_at', 'exhausted_version')
return {text(now_us()),
  redis.call('ZCARD', KEYS[2]) + redis.call('ZCARD', KEYS[3]) + redis.call('ZCARD', KEYS[4])
    + redis.call('ZCARD', KEYS[5]),
  meta[1] or '0', meta[2] or '0', meta[3] or '-1'}
