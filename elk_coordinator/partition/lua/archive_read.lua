-- Some chunks of the archive with their lines in the index, of one moment.
--
-- KEYS   1 archive  2 archive_index
-- ARGV   fields of chunks, at most 500
-- Reply  {index line or '', chunk or '', ...}
-- Cost   a constant number of commands; reads only.

local chunks = redis.call('HMGET', KEYS[1], unpack(ARGV))
local lines = redis.call('HMGET', KEYS[2], unpack(ARGV))
local reply = {}
for i = 1, #ARGV do
  reply[i * 2 - 1] = lines[i] or ''
  reply[i * 2] = chunks[i] or ''
end
return reply
