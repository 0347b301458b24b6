-- Take a worker out of the registry. Its leases are not touched: only their deadline frees them.
--
-- KEYS   1 workers  2 worker_info  3 streams
-- ARGV   1 worker, then the names of its streams
-- Reply  {number of workers removed}
-- Replay safe.  Cost a constant number of commands.

local removed = redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
for i = 2, #ARGV do redis.call('HDEL', KEYS[3], ARGV[i]) end
return {removed}
