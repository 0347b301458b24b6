-- include: stamp.lua
-- Extend a lock that is still held under this token. One that ran out is not revived.
--
-- KEYS   1 lock
-- ARGV   1 token  2 ttl_ms
-- Reply  {1} renewed   {0} gone or run out
-- Replay safe.  Cost a constant number of commands.

local lock = redis.call('HMGET', KEYS[1], 'token', 'deadline')
local now_ms = math.floor(now_us() / 1000)
if lock[1] ~= ARGV[1] or tonumber(lock[2]) <= now_ms then return {0} end
redis.call('HSET', KEYS[1], 'deadline', text(now_ms + tonumber(ARGV[2])), 'ttl', ARGV[2])
return {1}
