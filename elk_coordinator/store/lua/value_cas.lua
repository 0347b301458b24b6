-- include: stamp.lua
-- Replace or delete a value if it is still at the expected version.
-- Versions are stamps: they never repeat, so a writer that was frozen over a FLUSHALL is refused.
--
-- KEYS   1 meta  2 value
-- ARGV   1 expected version ('0' = there is none)  2 'set' or 'delete'  3 data
-- Reply  {1, new version}   {0, found version}
-- Replay a repeated request finds its own version: the data must carry an operation id if that matters.
-- Cost   a constant number of commands.

local found = redis.call('HMGET', KEYS[2], 'version', 'data')
local version = '0'
if found[2] then version = found[1] end
if version ~= ARGV[1] then return {0, version} end
local last = tonumber(redis.call('HGET', KEYS[1], 'last') or '0') or 0
local stamp = text(next_stamp(last, now_us(), 0))
redis.call('HSET', KEYS[1], 'last', stamp)
if ARGV[2] == 'delete' then
  redis.call('DEL', KEYS[2])
else
  redis.call('HSET', KEYS[2], 'version', stamp, 'data', ARGV[3])
end
return {1, stamp}
