-- include: stamp.lua
-- Enter a worker in the registry, or keep it there.
--
-- KEYS   1 workers  2 worker_info
-- ARGV   1 worker  2 ttl_ms  3 info (JSON)
-- Reply  {now_us}
-- Replay safe.  Cost a constant number of commands.

local now = now_us()
redis.call('ZADD', KEYS[1], text(math.floor(now / 1000) + tonumber(ARGV[2])), ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
return {text(now)}
