-- include: stamp.lua
-- Read a value with its version.
--
-- KEYS   1 value
-- ARGV   none
-- Reply  {found (0/1), data, version, now_us}
-- Cost   a constant number of commands; reads only.

local value = redis.call('HMGET', KEYS[1], 'data', 'version')
local now = text(now_us())
if not value[1] then return {0, '', value[2] or '0', now} end
return {1, value[1], value[2], now}
