-- The completed records of one page of ids that are due for the archive, and the chunk they belong to.
--
-- KEYS   1 done  2 archive  3 archive_index
-- ARGV   1 field of the chunk  2 the highest version that is due  then ids, at most 500
-- Reply  {index line or '', chunk or '', id, record, id, record, ...}
-- Cost   a constant number of commands; reads only.

local ids = {}
for i = 3, #ARGV do ids[#ids + 1] = ARGV[i] end
local records = redis.call('HMGET', KEYS[1], unpack(ids))
local cutoff = tonumber(ARGV[2])
local reply = {'', ''}
for i, id in ipairs(ids) do
  local version = records[i] and tonumber(string.match(records[i], '^%S+ %S+ %S+ %S+ (%d+) ') or '')
  if version and version <= cutoff then
    reply[#reply + 1] = id
    reply[#reply + 1] = records[i]
  end
end
if #reply > 2 then
  reply[1] = redis.call('HGET', KEYS[3], ARGV[1]) or ''
  reply[2] = redis.call('HGET', KEYS[2], ARGV[1]) or ''
end
return reply
