-- include: stamp.lua
-- Leave a mark in the namespace's meta record: what the leader's round found, or that somebody waits for a round.
--
-- KEYS   1 meta  2 lock:leader
-- ARGV   1 term of the leader, or '' for anybody  2 channel, or '' for no hint
--        then field, value pairs; the value 'now' stands for the microseconds of the server's clock
-- Reply  {1}   {0} the term is over
-- Replay safe.  Cost a constant number of commands.

if ARGV[1] ~= '' and redis.call('HGET', KEYS[2], 'token') ~= ARGV[1] then return {0} end
local marks = {}
for i = 3, #ARGV do
  marks[i - 2] = ARGV[i]
  if ARGV[i] == 'now' then marks[i - 2] = text(now_us()) end
end
redis.call('HSET', KEYS[1], unpack(marks))
if ARGV[2] ~= '' then redis.pcall('PUBLISH', ARGV[2], 'asked') end
return {1}
