-- include: stamp.lua
-- Remove commands that ended long ago, or that too many others ended after; only the leader does.
--
-- KEYS   1 lock:leader  2 commands  3 command_state  4 command_ended
-- ARGV   1 term  2 microseconds since the end  3 limit (at most 500)  4 most ended ones to keep
-- Reply  {1, removed}   {-2, holder's term} the term is over
-- Replay safe.  Cost a constant number of commands.

local holder = redis.call('HGET', KEYS[1], 'token')
if holder ~= ARGV[1] then return {-2, holder or '0'} end
-- They end in order of submission, so those that ended long ago are the first ones.
local first, old = redis.call('ZRANGE', KEYS[4], 0, ARGV[3] - 1), {}
if #first > 0 then
  local until_us = now_us() - tonumber(ARGV[2])
  for i, state in ipairs(redis.call('HMGET', KEYS[3], unpack(first))) do
    -- What has no readable state is as good as forgotten.
    local updated = tonumber(state and string.match(state, '^%a+ (%d+) ') or '0')
    if updated <= until_us then old[#old + 1] = first[i] end
  end
end
if #old == 0 then
  local over = redis.call('ZCARD', KEYS[4]) - tonumber(ARGV[4])
  if over > 0 then old = redis.call('ZRANGE', KEYS[4], 0, math.min(over, tonumber(ARGV[3])) - 1) end
end
if #old > 0 then
  redis.call('HDEL', KEYS[2], unpack(old))
  redis.call('HDEL', KEYS[3], unpack(old))
  redis.call('ZREM', KEYS[4], unpack(old))
end
return {1, #old}
