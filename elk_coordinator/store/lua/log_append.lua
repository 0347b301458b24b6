-- Append entries to a capped log, unless the same batch stands there already.
--
-- KEYS   1 log
-- ARGV   1 entries to keep, about  2 batch: a text no other batch has  3.. entries (at most 100)
-- Reply  {entries appended}; {0} when the batch was there
-- Replay found among the newest 200 entries; a retry further behind than that is stored twice, which does no harm.
-- Cost   one command, and one per entry.

for _, found in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 200)) do
  if found[2][2] == ARGV[2] then return {0} end
end
for i = 3, #ARGV do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'batch', ARGV[2], 'entry', ARGV[i])
end
return {#ARGV - 2}
