-- include: stamp.lua
-- One page of the recently completed partitions, unordered: which are due for the archive.
--
-- KEYS   1 done  2 meta
-- ARGV   1 cursor  2 count  3 age that makes due, microseconds
-- Reply  {next cursor ('0' at the end), now_us, recent, archived, some are not due yet (0/1), id, id, ...}
-- Cost   a constant number of commands over some count records; reads only.

local now = now_us()
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local reply = {page[1], text(now), redis.call('HLEN', KEYS[1]), redis.call('HGET', KEYS[2], 'archived') or '0', 0}
local cutoff = now - tonumber(ARGV[3])
for i = 1, #page[2], 2 do
  local version = tonumber(string.match(page[2][i + 1], '^%S+ %S+ %S+ %S+ (%d+) ') or '')
  if version and version <= cutoff then
    reply[#reply + 1] = page[2][i]
  else
    reply[5] = 1
  end
end
return reply
