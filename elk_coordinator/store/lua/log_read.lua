-- Read a page of a log.
--
-- KEYS   1 log
-- ARGV   1 '' = the newest entries, else the id behind which to read  2 limit (at most 1,000)
-- Reply  {id, entry, id, entry, ...}, oldest first
-- Replay changes nothing.
-- Cost   one command.

local out = {}
local page
if ARGV[1] == '' then
  page = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', ARGV[2])
  for i = #page, 1, -1 do
    out[#out + 1] = page[i][1]
    out[#out + 1] = page[i][2][4]
  end
else
  page = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
  for i = 1, #page do
    out[#out + 1] = page[i][1]
    out[#out + 1] = page[i][2][4]
  end
end
return out
