-- Write one chunk of the archive anew, while the records it takes in leave the recent ones, in one step.
--
-- KEYS   1 meta  2 lock:leader  3 done  4 archive  5 archive_index  6 pruned
-- ARGV   1 term of the leader  2 field of the chunk  3 its line in the index as it was read, '' for none
--        4 its new line, '' when nothing is left of it  5 the chunk  6 partitions it holds more than before
--        7 partitions dropped for good  8 number of records, then per record: id, version
--        then two lists, each a count and its members: pruned intervals removed, added
-- Reply  {1} done   {0} the chunk or a record changed meanwhile, nothing is done   {-2, holder's term} the term is over
--        {-3} the pruned intervals are not as the caller read them
-- Replay a line's mark is drawn for one request: an equal request finds its line and gets {1} again (one that left no
--        chunk gets {0}, and its caller finds the chunk gone).
-- Cost   a constant number of commands, at most 500 records.

local term = redis.call('HGET', KEYS[2], 'token')
if term ~= ARGV[1] then return {-2, term or '0'} end
local line = redis.call('HGET', KEYS[5], ARGV[2]) or ''
if line ~= ARGV[3] then
  if line ~= '' and line == ARGV[4] then return {1} end
  return {0}
end
local n, at = tonumber(ARGV[8]), 9
local ids = {}
for i = 1, n do ids[i] = ARGV[at + i * 2 - 2] end
if n > 0 then
  local records = redis.call('HMGET', KEYS[3], unpack(ids))
  for i = 1, n do
    local version = records[i] and string.match(records[i], '^%S+ %S+ %S+ %S+ (%d+) ')
    if version ~= ARGV[at + i * 2 - 1] then return {0} end
  end
end
at = at + n * 2
local lists = {}
for list = 1, 2 do
  local count, members = tonumber(ARGV[at]), {}
  for i = 1, count do members[i] = ARGV[at + i] end
  lists[list] = members
  at = at + 1 + count
end
if #lists[1] > 0 then
  local scores = redis.call('ZMSCORE', KEYS[6], unpack(lists[1]))
  for i = 1, #lists[1] do
    if not scores[i] then return {-3} end
  end
end
-- Into the chunk or the pruned ranges first, out of the recent ones last: see work.lua.
if #lists[2] > 0 then
  local scored = {}
  for i, member in ipairs(lists[2]) do
    scored[i * 2 - 1] = 0
    scored[i * 2] = member
  end
  redis.call('ZADD', KEYS[6], unpack(scored))
end
-- Tried on what does no harm: a chunk that is not counted would never be.
redis.call('HINCRBY', KEYS[1], 'archived', 0)
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[4], ARGV[2], ARGV[5])
  redis.call('HSET', KEYS[5], ARGV[2], ARGV[4])
end
redis.call('HINCRBY', KEYS[1], 'archived', ARGV[6])
if ARGV[7] ~= '0' then redis.call('HINCRBY', KEYS[1], 'pruned', ARGV[7]) end
if #lists[1] > 0 then redis.call('ZREM', KEYS[6], unpack(lists[1])) end
if ARGV[4] == '' then
  redis.call('HDEL', KEYS[4], ARGV[2])
  redis.call('HDEL', KEYS[5], ARGV[2])
end
if n > 0 then redis.call('HDEL', KEYS[3], unpack(ids)) end
return {1}
