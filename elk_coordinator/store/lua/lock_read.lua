-- include: stamp.lua
-- Who holds a lock, and for how long still.
--
-- KEYS   1 lock
-- ARGV   none
-- Reply  {owner, token, remaining_ms}; remaining 0 when free
-- Cost   a constant number of commands; reads only.

local lock = redis.call('HMGET', KEYS[1], 'owner', 'token', 'deadline', 'ttl')
if not tonumber(lock[3] or '') or not tonumber(lock[4] or '') then return {'', '0', 0} end
local now_ms = math.floor(now_us() / 1000)
local remaining = math.max(0, math.min(tonumber(lock[3]) - now_ms, tonumber(lock[4])))
return {lock[1], lock[2], remaining}
